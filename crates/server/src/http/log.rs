//! The log itself, as C2SP tlog-tiles says: checkpoint, tiles and entry bundles, for the open shard and for closed ones.
//!
//! Public without authentication: a leaf is a commitment, which says nothing, or an entry that was made to be public.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use countersign_domain::{Refusal, RefusalKind};
use countersign_ledger::LogEntry;
use countersign_ledger::contract::{Reader, ShardRow, StoreError};
use countersign_ledger::tree::{self, Snapshot, TreeReader};
use countersign_proof::tile::{Resource, Tile, encode_bundle, encode_tile};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Value, json};

use super::problem::Refused;
use super::{Answered, json};
use crate::app::App;

const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// tlog-tiles: entry bundles and tiles.
const OCTETS: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

/// What a log's resource is read from: the published head for the open shard, so that nothing unsigned is shown.
enum Shard {
    Open(Arc<Snapshot>),
    Closed(ShardRow),
}

pub(super) async fn checkpoint(State(app): State<Arc<App>>) -> Answered {
    // Without witnesses there is nothing to look for.
    let note = match &app.asking {
        None => app.ledger.head().checkpoint.clone(),
        Some(_) => app.ledger.cosigned_checkpoint().await.map_err(away)?,
    };
    Ok(checkpoint_text(note))
}

pub(super) async fn checkpoint_of(State(app): State<Arc<App>>, Path(origin): Path<String>) -> Answered {
    match find(&app, &origin).await? {
        Shard::Open(snapshot) => Ok(checkpoint_text(snapshot.head.checkpoint.clone())),
        Shard::Closed(row) => Ok(checkpoint_text(row.checkpoint.ok_or_else(no_such)?)),
    }
}

pub(super) async fn tile(State(app): State<Arc<App>>, Path(path): Path<String>) -> Answered {
    let shard = Shard::Open(app.ledger.snapshot());
    resource(&app, shard, &path).await
}

pub(super) async fn tile_of(State(app): State<Arc<App>>, Path((origin, path)): Path<(String, String)>) -> Answered {
    let shard = find(&app, &origin).await?;
    resource(&app, shard, &path).await
}

pub(super) async fn shards(State(app): State<Arc<App>>) -> Answered {
    let rows = app.ledger.read(|reader| reader.shards()).await.map_err(away)?;
    let head = app.ledger.head();
    let describe = |row: &ShardRow| {
        let open = row.shard == head.shard;
        let size = if open { head.size } else { row.size };
        json!({ "origin": row.origin, "vkey": row.vkey, "size": size, "open": open })
    };
    json(&rows.iter().map(describe).collect::<Vec<Value>>())
}

async fn find(app: &App, origin: &str) -> Result<Shard, Refusal> {
    let snapshot = app.ledger.snapshot();
    if snapshot.head.origin == origin {
        return Ok(Shard::Open(snapshot));
    }
    let rows = app.ledger.read(|reader| reader.shards()).await.map_err(away)?;
    let row = rows.into_iter().find(|row| row.origin == origin && row.shard < snapshot.head.shard);
    row.map(Shard::Closed).ok_or_else(no_such)
}

async fn resource(app: &App, shard: Shard, path: &str) -> Answered {
    let resource = Resource::parse_path(&format!("tile/{path}")).map_err(|_| no_such())?;
    let read = app.ledger.read(move |reader| match resource {
        Resource::Hashes(tile) => Ok(hashes(reader, &shard, tile)?.map(|hashes| encode_tile(&hashes))),
        Resource::Entries(tile) => entries(reader, &shard, tile),
    });
    let body = read.await.map_err(away)?.ok_or_else(no_such)?;
    Ok(([(CONTENT_TYPE, OCTETS), (CACHE_CONTROL, IMMUTABLE)], body).into_response())
}

fn hashes(reader: &dyn Reader, shard: &Shard, tile: Tile) -> Result<Option<Vec<[u8; 32]>>, StoreError> {
    let width = usize::from(tile.width);
    match shard {
        Shard::Open(snapshot) => snapshot.tile(reader, tile.level, tile.index, width),
        Shard::Closed(row) => tree::tile(&TreeReader::new(reader, row.shard, row.size), tile.level, tile.index, width),
    }
}

fn entries(reader: &dyn Reader, shard: &Shard, tile: Tile) -> Result<Option<Vec<u8>>, StoreError> {
    let (number, size) = match shard {
        Shard::Open(snapshot) => (snapshot.head.shard, snapshot.head.size),
        Shard::Closed(row) => (row.shard, row.size),
    };
    let from = tile.index.checked_mul(countersign_proof::tile::TILE_WIDTH);
    let range = from.and_then(|from| Some((from, from.checked_add(u64::from(tile.width))?)));
    let Some((from, to)) = range.filter(|(_, to)| *to <= size) else { return Ok(None) };
    let leaves = reader.entries(number, from, to)?;
    if leaves.len() != usize::from(tile.width) {
        return Err(StoreError::Corrupt(format!("leaves after {from} of shard {number} are missing")));
    }
    let leaves: Vec<_> = leaves.iter().map(LogEntry::data).collect();
    let bundle = encode_bundle(&leaves).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(Some(bundle))
}

fn checkpoint_text(note: String) -> Response {
    // The newest one matters: nobody may answer with an old one out of a cache.
    ([(CONTENT_TYPE, HeaderValue::from_static(TEXT)), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))], note)
        .into_response()
}

fn no_such() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "the log has no such resource (see C2SP tlog-tiles), or not yet")
}

/// A failing read, as callers learn of it.
pub(super) fn away(error: StoreError) -> Refusal {
    tracing::error!(%error, "the ledger could not be read");
    Refusal::new(RefusalKind::LedgerUnavailable, "the ledger cannot be read right now; try again later")
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self(away(error))
    }
}
