//! Witnessing over HTTP: C2SP tlog-witness for other logs, and how things stand for operators and auditors.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use countersign_domain::{Refusal, RefusalKind};
use countersign_ledger::witness::WitnessedRow;
use countersign_proof::witness::{MAX_REQUEST_BYTES, SIZE_TYPE, size_body};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::log::away;
use super::request::{Caller, read_body_within};
use super::{Answered, json};
use crate::app::App;
use crate::witness::Failed;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/add-checkpoint", post(add_checkpoint)).route("/admin/witness", get(status))
}

/// No token: a checkpoint speaks for itself, by its log's signature.
async fn add_checkpoint(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answered {
    let missing = || Refusal::new(RefusalKind::NotFound, "this node is no witness");
    let witness = app.witness.as_ref().ok_or_else(missing)?;
    let body = read_body_within(&app, &headers, body, MAX_REQUEST_BYTES).await?;
    Ok(match witness.add_checkpoint(&body).await {
        Ok(line) => plain(StatusCode::OK, line),
        Err(Failed::Refused(refusal)) => {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
            match refusal.latest_size() {
                Some(size) => (status, [(CONTENT_TYPE, SIZE_TYPE)], size_body(size)).into_response(),
                None => plain(status, format!("{refusal}\n")),
            }
        }
        Err(Failed::Unavailable(error)) => {
            tracing::warn!(%error, "a checkpoint could not be cosigned");
            plain(StatusCode::SERVICE_UNAVAILABLE, "the witness cannot record right now; try again later\n".to_owned())
        }
    })
}

fn plain(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")], text).into_response()
}

async fn status(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    app.gate.require_observer(&caller.principal)?;
    let shard = app.ledger.head().shard;
    let read = move |reader: &dyn countersign_ledger::contract::Reader| {
        Ok((reader.all_witnessed()?, reader.newest_cosignatures(shard)?))
    };
    let (witnessed, cosignatures) = app.ledger.read(read).await.map_err(away)?;
    let head = app.ledger.head();
    json(&json!({
        "log": { "origin": head.origin, "size": head.size },
        "witnesses": app.asking.as_ref().map(|asking| asking.describe(&cosignatures)).unwrap_or_default(),
        "witness": app.witness.as_ref().map(|witness| {
            let key = witness.key();
            json!({ "name": key.name(), "vkey": key.to_string() })
        }),
        "logs": logs(&app, &witnessed),
    }))
}

/// The logs that are configured, and those of which something was cosigned before.
fn logs(app: &App, witnessed: &[WitnessedRow]) -> Vec<Value> {
    let known: Vec<&str> = app.witness.iter().flat_map(|witness| witness.logs()).map(|key| key.name()).collect();
    let describe = |row: &WitnessedRow| {
        json!({
            "origin": row.origin, "size": row.head.size, "at": row.at, "forked": row.forked,
            "configured": known.contains(&row.origin.as_str()),
        })
    };
    let fresh = known.iter().filter(|origin| !witnessed.iter().any(|row| row.origin == **origin));
    let fresh = fresh.map(|origin| json!({ "origin": origin, "size": null, "configured": true }));
    witnessed.iter().map(describe).chain(fresh).collect()
}
