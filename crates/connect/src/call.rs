//! One permitted call: the request that it becomes, and the rounds in which an upstream asks for input.

use std::borrow::Cow;
use std::collections::BTreeMap;

use countersign_domain::Operation;
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{Answers, Ask, AskError, AskKind, DispatchError, Exchange, ToolResult};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::link::{Link, Question};
use crate::rpc::{self, Answer, HEADER_MISMATCH, Outcome, quote};
use crate::talk;
use crate::tasks::{self, Following, Task};
use crate::upstream::Mirror;

/// How often an upstream may ask for input before it has to answer.
const MAX_ROUNDS: u32 = 8;
/// What an upstream may ask for in one round.
pub(crate) const MAX_ASKS: usize = 16;
/// Longest `requestState`, in bytes.
const MAX_STATE: usize = 256 << 10;
/// The code of a call that ended because its caller's side did not give what the upstream asked for.
const NOT_GIVEN: i64 = -1;

/// The request that an operation becomes.
struct Request<'a> {
    method: &'static str,
    name: Option<Cow<'a, str>>,
    members: String,
}

/// Makes the call and, as long as the upstream asks for input, makes it again with the answers.
pub(crate) async fn call(
    link: &dyn Link,
    mirror: &Mirror,
    permit: &Permit,
    exchange: &dyn Exchange,
) -> Result<ToolResult, DispatchError> {
    let deadline = permit.deadline();
    let request = request(permit)?;
    if permit.operation() == Operation::Subscribe {
        let uri = request.name.as_deref().unwrap_or_default();
        return done(rpc::outcome(link.subscribe(uri, deadline).await?)?);
    }
    let facts = link.facts(deadline).await?;
    if let (Some(level), false, true) = (exchange.log_level(), facts.modern, facts.logging) {
        mirror.log_level(link, level, deadline).await;
    }
    let tool = match permit.operation() {
        Operation::Tool(tool) if facts.mirrors => Some(tool),
        _ => None,
    };
    if facts.modern && matches!(permit.operation(), Operation::GetTask | Operation::UpdateTask | Operation::CancelTask)
    {
        return of_task(link, &request, permit, exchange).await;
    }
    let (is_tool, caller_knows) = (matches!(permit.operation(), Operation::Tool(_)), exchange.knows_tasks());
    let following = Following(exchange);
    let mut exchange = exchange;
    let mut members = Cow::Borrowed(request.members.as_str());
    for _ in 0..=MAX_ROUNDS {
        let mut question = Question::plain(exchange, deadline);
        (question.method, question.name, question.members) = (request.method, request.name.as_deref(), &members);
        if let Some(tool) = tool {
            mirror.headers(tool, permit.arguments().get(), &mut question);
        }
        let mut answer = link.ask(&question).await?;
        if let (Some(tool), true) = (tool, is_header_mismatch(&answer)) {
            // It refused the request because of its headers, so that nothing was done: its definition may have changed.
            mirror.renew(link, deadline).await?;
            mirror.headers(tool, permit.arguments().get(), &mut question);
            answer = link.ask(&question).await?;
        }
        if is_tool && facts.modern && !exchange.knows_tasks() && tasks::wants_tasks(&answer) {
            // It did nothing yet. What it makes of the call is followed here.
            exchange = &following;
            continue;
        }
        match rpc::outcome(answer)? {
            Outcome::Done(result) => {
                return match Task::created(&result.raw)? {
                    Some(task) if facts.modern && !caller_knows => tasks::finish(link, task, exchange, deadline).await,
                    Some(_) | None => Ok(result),
                };
            }
            Outcome::Input(_) if !facts.modern => {
                return Err(DispatchError::Protocol(
                    "it asked for input in a way that its revision does not have".into(),
                ));
            }
            Outcome::Input(raw) => {
                let asked = ask(&raw, exchange).await?;
                members = Cow::Owned(format!("{}{asked}", request.members));
            }
        }
    }
    Err(DispatchError::Protocol(format!("it asked for input more than {MAX_ROUNDS} times")))
}

/// What a caller asks of a task that it follows.
async fn of_task(
    link: &dyn Link,
    request: &Request<'_>,
    permit: &Permit,
    exchange: &dyn Exchange,
) -> Result<ToolResult, DispatchError> {
    let (deadline, following) = (permit.deadline(), Following(exchange));
    let mut question = Question::plain(&following, deadline);
    (question.method, question.name, question.members) = (request.method, request.name.as_deref(), &request.members);
    let result = done(rpc::outcome(link.ask(&question).await?)?)?;
    match permit.operation() {
        Operation::GetTask => tasks::shown(link, result, exchange, deadline).await,
        _ => Ok(result),
    }
}

fn done(outcome: Outcome) -> Result<ToolResult, DispatchError> {
    match outcome {
        Outcome::Done(result) => Ok(result),
        Outcome::Input(_) => Err(DispatchError::Protocol("it asked for input where there is none to give".into())),
    }
}

fn is_header_mismatch(answer: &Answer) -> bool {
    match answer {
        Answer::Error(raw) => rpc::error_parts(raw).is_some_and(|(code, _)| code == HEADER_MISMATCH),
        Answer::Result(_) | Answer::TooDeep => false,
    }
}

fn request(permit: &Permit) -> Result<Request<'_>, DispatchError> {
    #[derive(Deserialize)]
    struct Uri {
        uri: String,
    }
    #[derive(Deserialize)]
    struct OfTask {
        #[serde(rename = "taskId")]
        task: String,
        #[serde(rename = "inputResponses", default)]
        responses: Option<Box<RawValue>>,
    }
    let unsent = |why: String| DispatchError::NotSent(why);
    let operation = permit.operation();
    let arguments = permit.arguments().get();
    let named = |name: &str| format!("\"name\":{},\"arguments\":{arguments}", quote(name));
    let (name, members) = match operation {
        Operation::Tool(name) | Operation::Prompt(name) => (Some(Cow::Borrowed(name)), named(name)),
        Operation::ReadResource | Operation::Subscribe => {
            let uri: Uri = serde_json::from_str(arguments).map_err(|e| unsent(format!("no URI: {e}")))?;
            (Some(Cow::Owned(uri.uri)), params(arguments)?)
        }
        Operation::Complete => (None, params(arguments)?),
        Operation::GetTask | Operation::UpdateTask | Operation::CancelTask => {
            let of: OfTask = serde_json::from_str(arguments).map_err(|e| unsent(format!("no task: {e}")))?;
            let answers = of.responses.map(|raw| format!(",\"inputResponses\":{}", raw.get())).unwrap_or_default();
            let members = format!("\"taskId\":{}{answers}", quote(&of.task));
            (Some(Cow::Owned(of.task)), members)
        }
        Operation::Resource(_) | Operation::Elicit | Operation::Sample | Operation::ListRoots | Operation::Connect => {
            return Err(unsent(format!("{} is nothing that upstreams are asked", permit.tool())));
        }
    };
    Ok(Request { method: operation.method(), name, members })
}

/// The members of an object but those that are ours to write, as they are.
fn params(object: &str) -> Result<String, DispatchError> {
    let members: Members<'_> =
        serde_json::from_str(object).map_err(|e| DispatchError::NotSent(format!("no parameters: {e}")))?;
    let ours = |name: &str| matches!(name, "_meta" | "inputResponses" | "requestState");
    let written = members.0.iter().filter(|(name, _)| !ours(name));
    Ok(written.map(|(name, value)| format!("{}:{}", quote(name), value.get())).collect::<Vec<_>>().join(","))
}

/// The members of an object in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    members.push((Cow::Owned(name), value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visitor).map(Self)
    }
}

/// Asks the caller's side what the upstream asks, and gives the members with which the request is made again.
pub(crate) async fn ask(raw: &RawValue, exchange: &dyn Exchange) -> Result<String, DispatchError> {
    #[derive(Deserialize)]
    struct InputRequired {
        #[serde(rename = "inputRequests", default)]
        requests: BTreeMap<String, InputRequest>,
        #[serde(rename = "requestState", default)]
        state: Option<String>,
    }
    #[derive(Deserialize)]
    struct InputRequest {
        method: String,
        #[serde(default)]
        params: Option<Box<RawValue>>,
    }
    let protocol = |why: String| DispatchError::Protocol(why);
    let input: InputRequired =
        serde_json::from_str(raw.get()).map_err(|e| protocol(format!("what it asks for cannot be read: {e}")))?;
    if input.requests.is_empty() && input.state.is_none() {
        return Err(protocol("it asked for input without saying which".into()));
    }
    if input.requests.len() > MAX_ASKS {
        return Err(protocol(format!("it asked for more than {MAX_ASKS} inputs at once")));
    }
    if input.state.as_ref().is_some_and(|state| state.len() > MAX_STATE) {
        return Err(protocol(format!("its state is longer than {MAX_STATE} bytes")));
    }
    let mut asks: Vec<Ask> = Vec::new();
    for (key, request) in input.requests {
        let unknown = || protocol(format!("it asked for {:?}, which is no input", rpc::shorten(&request.method, 80)));
        asks.push(talk::question(&request.method, Some(key), request.params.as_deref()).ok_or_else(unknown)?);
    }
    let keys: Vec<(String, AskKind)> = asks.iter().map(|a| (a.key.clone().unwrap_or_default(), a.kind)).collect();
    let answers = if asks.is_empty() { Answers::new() } else { exchange.ask(asks).await };
    let mut members = String::new();
    if !keys.is_empty() {
        let mut given = Vec::new();
        for ((key, kind), answer) in keys.iter().zip(answers.into_iter().chain(std::iter::repeat(Err(AskError::Gone))))
        {
            given.push(format!("{}:{}", quote(key), given_for(*kind, answer)?.get()));
        }
        members.push_str(&format!(",\"inputResponses\":{{{}}}", given.join(",")));
    }
    if let Some(state) = &input.state {
        members.push_str(&format!(",\"requestState\":{}", quote(state)));
    }
    Ok(members)
}

/// This revision has no errors as answers. A question to a person can be dismissed; where anything else is not given, the
/// call ends here: the upstream has answered it, so that its outcome is known.
pub(crate) fn given_for(
    kind: AskKind,
    answer: Result<Box<RawValue>, AskError>,
) -> Result<Box<RawValue>, DispatchError> {
    let error = match answer {
        Ok(given) => return Ok(given),
        Err(error) => error,
    };
    let json = |text: String| RawValue::from_string(text).map_err(|e| DispatchError::Protocol(e.to_string()));
    match (kind, &error) {
        (AskKind::ElicitForm | AskKind::ElicitUrl, AskError::Refused(_) | AskError::Rpc { .. }) => {
            json("{\"action\":\"cancel\"}".to_owned())
        }
        (AskKind::ElicitForm | AskKind::ElicitUrl | AskKind::Sample | AskKind::ListRoots, _) => {
            let message = format!("the upstream asked for {}, which it was not given: {error}", kind.operation());
            let raw = json(format!("{{\"code\":{NOT_GIVEN},\"message\":{}}}", quote(&message)))?;
            Err(DispatchError::Rpc { code: NOT_GIVEN, message, raw })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_through_as_they_are_without_what_is_ours() {
        let given = r#"{ "uri" : "a:\"b", "_meta":{"progressToken":1}, "x":{ "n":1.50 }, "requestState":"s" }"#;
        assert_eq!(params(given).expect("an object"), r#""uri":"a:\"b","x":{ "n":1.50 }"#);
        assert_eq!(params("{}").expect("an object"), "");
        assert!(params("[]").is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_asked_for_is_refused() {
        let input = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let many: Vec<String> = (0..=MAX_ASKS).map(|n| format!("\"{n}\":{{\"method\":\"roots/list\"}}")).collect();
        for wrong in [
            r#"{"resultType":"input_required"}"#.to_owned(),
            r#"{"inputRequests":{"a":{"method":"tools/call","params":{}}}}"#.to_owned(),
            r#"{"inputRequests":[]}"#.to_owned(),
            format!("{{\"inputRequests\":{{{}}}}}", many.join(",")),
            format!("{{\"requestState\":\"{}\"}}", "s".repeat(MAX_STATE + 1)),
        ] {
            let asked = ask(&input(&wrong), &countersign_gate::upstream::Mute).await;
            assert!(matches!(asked, Err(DispatchError::Protocol(_))), "{}", rpc::shorten(&wrong, 80));
        }
        let state = ask(&input(r#"{"requestState":"a\"b"}"#), &countersign_gate::upstream::Mute).await;
        assert_eq!(state.expect("a state alone"), r#","requestState":"a\"b""#);
    }
}
