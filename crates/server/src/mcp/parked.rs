//! Calls of 2026-07-28 that wait for their client to come back with answers.
//!
//! The client is told what is asked and gets a sealed `requestState`; the call itself goes on living here, for a while, and
//! the retry takes it up again. State that was made for another caller, another request or another time does not open.
//! (2026-07-28, `basic/patterns/mrtr`.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_domain::{Millis, Principal};
use countersign_gate::questions::DURING;
use countersign_gate::upstream::AskError;
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::message::{INTERNAL_ERROR, INVALID_PARAMS, RpcError};
use super::result::server_info;
use super::wire::random_id;
use super::wire::{Flight, Question};
use crate::app::App;
use crate::rawjson::{self, ObjectWriter};

/// How long a client may take to come back.
const PATIENCE: Duration = Duration::from_secs(300);
/// Parked calls of one node, and of one caller.
const MAX_PARKED: usize = 1_024;
const MAX_OF_CALLER: usize = 16;
const PURPOSE: &str = "mcp-request-state";

/// A call that waits.
struct Parked {
    caller: String,
    flight: Flight,
    questions: Vec<(String, Question)>,
}

/// What a request state says.
#[derive(Debug, Serialize, Deserialize)]
struct Statement {
    /// Which parked call.
    k: Uuid,
    /// For which request.
    r: Digest,
    /// Until when.
    t: Millis,
    /// The call's id in the ledger, where it is known.
    c: Option<String>,
    /// Whether all that was asked is to open the page of an approval, so that nothing is lost if the call is made anew.
    #[serde(default)]
    a: bool,
}

/// The parked calls of a node.
#[derive(Default)]
pub(crate) struct Parking {
    parked: Mutex<HashMap<Uuid, Parked>>,
}

impl std::fmt::Debug for Parking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parking").finish_non_exhaustive()
    }
}

fn now() -> Millis {
    countersign_ledger::handle::system_clock()
}

impl Parking {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, caller: &str) -> bool {
        let parked = self.lock();
        parked.len() < MAX_PARKED && parked.values().filter(|other| other.caller == caller).count() < MAX_OF_CALLER
    }
}

/// Parks a call whose questions the client has to answer, and gives the `InputRequiredResult`. Without room, the questions
/// are refused and the flight comes back to go on.
pub(crate) async fn park(
    app: &Arc<App>,
    principal: &Principal,
    request: &Digest,
    flight: Flight,
    questions: Vec<(String, Question)>,
) -> Result<Vec<u8>, Flight> {
    let caller = principal.caller_key();
    let during = questions.iter().find_map(|(_, question)| call_of(question));
    // What an upstream asks always says during which call; its name for the question proves nothing.
    let invites = during.is_none() && questions.iter().all(|(name, _)| name == super::invite::KEY);
    let until = now() + PATIENCE.as_millis() as Millis;
    let statement = Statement { k: random_id(), r: *request, t: until, c: during, a: invites };
    let plain = serde_json::to_vec(&statement).unwrap_or_default();
    let state = match app.gate.seal(principal, PURPOSE, &plain).await {
        Ok(state) if app.parking.has_room(&caller) => state,
        Ok(_) | Err(_) => {
            for (_, question) in questions {
                let _ = question
                    .answer
                    .send(Err(AskError::Refused("too many calls wait for this client's answers".into())));
            }
            return Err(flight);
        }
    };
    let result = input_required(&questions, &state);
    app.parking.lock().insert(statement.k, Parked { caller, flight, questions });
    let (app, key) = (Arc::clone(app), statement.k);
    tokio::spawn(async move {
        tokio::time::sleep(PATIENCE).await;
        // Dropping the flight cancels the call, as the client's silence does.
        drop(app.parking.lock().remove(&key));
    });
    Ok(result)
}

/// The ledger's id of the call during which a question is asked.
fn call_of(question: &Question) -> Option<String> {
    let params: Value = serde_json::from_str(question.ask.params.get()).ok()?;
    params["_meta"][DURING].as_str().map(str::to_owned)
}

/// Questions that came together, under names that are unique among them: the upstream's own where it has such.
pub(crate) fn named(questions: Vec<Question>) -> Vec<(String, Question)> {
    let mut named: Vec<(String, Question)> = Vec::with_capacity(questions.len());
    for (number, question) in questions.into_iter().enumerate() {
        let own = question.ask.key.clone().filter(|key| !named.iter().any(|(taken, _)| taken == key));
        let name = own.unwrap_or_else(|| format!("input-{}", number + 1));
        named.push((name, question));
    }
    named
}

fn input_required(questions: &[(String, Question)], state: &str) -> Vec<u8> {
    let mut requests = ObjectWriter::new(Vec::with_capacity(512));
    for (name, question) in questions {
        let mut request = ObjectWriter::new(Vec::with_capacity(256));
        request.plain("method", question.ask.kind.operation());
        request.member("params", question.ask.params.get().as_bytes());
        let request = request.finish();
        requests.member(name, &request);
    }
    let requests = requests.finish();
    let mut out = ObjectWriter::new(Vec::with_capacity(requests.len() + 512));
    out.plain("resultType", "input_required");
    out.member("inputRequests", &requests);
    out.plain("requestState", state);
    out.member("_meta", json!({ "io.modelcontextprotocol/serverInfo": server_info() }).to_string().as_bytes());
    out.finish()
}

/// Takes a parked call up again with the answers that the client brings. Where some are missing, the rest is asked again.
///
/// # Errors
/// If the state is not one for this caller and request, or the call is not here any more.
pub(crate) async fn resume(
    app: &Arc<App>,
    principal: &Principal,
    request: &Digest,
    state: &str,
    responses: Option<&RawValue>,
) -> Result<Resumed, Lost> {
    let foreign = || {
        Lost::Over(RpcError::new(
            INVALID_PARAMS,
            "the requestState was not made for this caller and this request, or its time is over",
        ))
    };
    let plain = app.gate.unseal(principal, PURPOSE, state).await;
    let plain = plain.map_err(|refusal| Lost::Over(RpcError::new(INTERNAL_ERROR, refusal.detail)))?;
    let plain = plain.ok_or_else(foreign)?;
    let statement: Statement = serde_json::from_slice(&plain).map_err(|_| foreign())?;
    if statement.r != *request || statement.t <= now() {
        return Err(foreign());
    }
    let members = match responses {
        None => Vec::new(),
        Some(raw) => rawjson::members(raw.get()).map_err(|_| {
            Lost::Over(RpcError::new(INVALID_PARAMS, "inputResponses is an object of answers by their names"))
        })?,
    };
    // Taken out at once: a state is good for one retry.
    let parked = app.parking.lock().remove(&statement.k);
    let Some(Parked { flight, questions, .. }) = parked.filter(|parked| parked.caller == principal.caller_key()) else {
        return Err(if statement.a { Lost::Anew } else { Lost::Over(gone(statement.c)) });
    };
    let mut missing = Vec::new();
    for (name, question) in questions {
        match members.iter().find(|(member, _)| *member == name) {
            Some((_, answer)) => drop(question.answer.send(Ok((*answer).to_owned()))),
            None => missing.push((name, question)),
        }
    }
    Ok(Resumed { flight, missing })
}

/// Why a call does not go on.
pub(crate) enum Lost {
    /// The error for the client.
    Over(RpcError),
    /// It only waited for people, which the same request made anew does as well.
    Anew,
}

/// A call that goes on.
pub(crate) struct Resumed {
    pub flight: Flight,
    /// What the client did not answer.
    pub missing: Vec<(String, Question)>,
}

/// The call was held by another node, or by this one before it started anew.
fn gone(call: Option<String>) -> RpcError {
    let message = "the call does not wait here any more: its time is over, it was answered before, or another node held it. \
                   Its events say how it ended; make the request anew if that is what you want";
    let mut data = Map::new();
    if let Some(call) = call {
        data.insert("call".to_owned(), Value::from(call));
    }
    RpcError::new(INVALID_PARAMS, message).with(Value::Object(data))
}

/// The identity of a request: a retry has to be the same one.
pub(crate) fn identity(endpoint: &str, method: &str, name: &str, arguments: &str) -> Digest {
    use countersign_proof::canonical::{Limits, parse_strict, to_canonical};
    const LIMITS: Limits = Limits { max_bytes: 8 << 20, max_depth: 128 };
    let canonical = parse_strict(arguments.as_bytes(), &LIMITS).ok().and_then(|value| to_canonical(&value).ok());
    let canonical = canonical.unwrap_or_else(|| arguments.as_bytes().to_vec());
    let mut text = Vec::with_capacity(canonical.len() + 256);
    for part in [endpoint.as_bytes(), method.as_bytes(), name.as_bytes(), &canonical] {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    }
    Digest::of(&text)
}

/// A question that this client cannot be asked any more is answered so.
pub(crate) fn unsupported(question: Question) {
    let _ = question.answer.send(Err(AskError::Unsupported));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_the_same_request_however_it_is_spelled() {
        let one = identity("/mcp", "tools/call", "pay", r#"{"a":1,"b":"x"}"#);
        assert_eq!(one, identity("/mcp", "tools/call", "pay", r#" {"b":"\u0078","a":1.0}"#));
        for (endpoint, method, name, arguments) in [
            ("/mcp/x", "tools/call", "pay", r#"{"a":1,"b":"x"}"#),
            ("/mcp", "prompts/get", "pay", r#"{"a":1,"b":"x"}"#),
            ("/mcp", "tools/call", "pay2", r#"{"a":1,"b":"x"}"#),
            ("/mcp", "tools/call", "pay", r#"{"a":2,"b":"x"}"#),
        ] {
            assert_ne!(one, identity(endpoint, method, name, arguments));
        }
    }
}
