//! Yesterday's database with today's code.

use countersign_ledger::{OpenReason, StoreError};
use countersign_store::SqliteStore;

use crate::support::{Node, verifies};

const V1: &str = include_str!("../fixtures/v1.sql");

#[test]
fn a_database_of_version_1_is_read_and_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    rusqlite::Connection::open(&node.database).unwrap().execute_batch(V1).unwrap();
    let store = SqliteStore::open(&node.database).unwrap();
    store.integrity_check().unwrap();
    let reader = countersign_ledger::Store::reader(&store);
    let report = countersign_ledger::fsck(&*reader, &countersign_ledger::FsckOptions::default());
    assert!(report.is_ok(), "{:?}", report.findings);
    assert_eq!((report.shards, report.events, report.erased), (2, 9, 1));
    let pending = reader.requests(None, None, None, 10).unwrap();
    assert_eq!(pending[0].answers[0].reason.as_deref(), Some("fine by me"));
    assert_eq!(
        (reader.intents().unwrap().len(), reader.freezes().unwrap().len(), reader.pins().unwrap().len()),
        (1, 1, 1)
    );
    drop((reader, store));
    let running = node.open();
    assert_eq!(running.opened.reason, Some(OpenReason::HeadFileMissing), "the fixture is a database alone");
    let reader = running.ledger.reader();
    let first = &reader.leaves(0, 2, 1).unwrap()[0];
    assert!(verifies(&running.receipt(first.id), &reader.shards().unwrap()[0].vkey));
    running.append_n("w", 1);
    drop((reader, running));
    node.assert_sound();
}

#[test]
fn a_database_of_a_newer_version_or_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    drop(SqliteStore::open(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(StoreError::Version { found: 99, .. })));
    let foreign = dir.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().pragma_update(None, "user_version", 1).unwrap();
    assert!(matches!(SqliteStore::open(&foreign), Err(StoreError::Corrupt(_))));
    std::fs::write(dir.path().join("text.db"), "not a database, but long enough to be looked at".repeat(100)).unwrap();
    assert!(SqliteStore::open(dir.path().join("text.db")).is_err());
}

/// Writes the fixture; run once for each new schema version, under a new name.
#[test]
#[ignore = "makes a fixture"]
fn make_fixture() {
    use countersign_domain::obligation::ObligationKind;
    use countersign_domain::{Effect, EventType, Obligations, Principal};
    use countersign_ledger::state::*;
    use countersign_ledger::{Append, Entry};
    use countersign_proof::digest::Digest;

    use crate::support::{draft, new_id, one, with_ops};

    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    let small = |kind| Entry::new(draft("w", kind).with("reason", "a fixture").prepare().unwrap());
    let erased = running.append(one(small(EventType::CallCompleted))).unwrap().events.remove(0);
    running.append(one(small(EventType::CallDenied))).unwrap();
    let record = Principal::node().record();
    let (id, event) = (new_id(), small(EventType::CallPending));
    let row = RequestRow {
        id,
        workspace: "w".parse().unwrap(),
        requester: "agent".into(),
        requester_keys: vec!["agent".into()],
        person_key: None,
        principal: record.clone(),
        tool: "ads:createCampaign".parse().unwrap(),
        effect: Effect::Write,
        pin: Digest::of(b"pin"),
        fingerprint: [1; 32],
        arguments: vec![1, 2, 3],
        owed: Obligations { approvals: 2, expires_seconds: 900, ..Obligations::default() },
        policy_version: "v1".into(),
        status: RequestStatus::Pending,
        created: 1,
        expires: u64::from(u32::MAX) * 1000,
        event: event.event.id,
        answers: Vec::new(),
        closed_by: None,
        execute_on_approval: false,
    };
    running.append(with_ops(event, vec![StateOp::OpenRequest { row: Box::new(row), cap: 5 }])).unwrap();
    let event = small(EventType::ApprovalGranted);
    let answer = AnswerRow {
        person: "amy".into(),
        principal: record.clone(),
        kind: ObligationKind::Approval,
        granted: true,
        at: 0,
        event: event.event.id,
        reason: Some("fine by me".into()),
    };
    running.append(with_ops(event, vec![StateOp::Answer { request: id, answer }])).unwrap();
    let note = draft("w", EventType::EventErased).with("erased", erased.id.to_string()).prepare().unwrap();
    running.append(with_ops(Entry::new(note), vec![StateOp::Erase { event: erased.id }])).unwrap();
    drop(running);
    node.domain = "second.example".into();
    let running = node.open();
    let event = small(EventType::CallIntent);
    let intent = IntentRow {
        call: new_id(),
        workspace: "w".parse().unwrap(),
        principal: record,
        tool: "ads:createCampaign".parse().unwrap(),
        pin: Digest::of(b"pin"),
        effect: Effect::Destructive,
        fingerprint: [2; 32],
        event: event.event.id,
        state: IntentState::Unknown,
        at: 5,
        idempotency: Some([3; 32]),
    };
    let key = IdempotencyRow {
        scope: [3; 32],
        fingerprint: [3; 32],
        state: IdempotencyState::Unknown,
        call: intent.call,
        answer: None,
        expires: 5,
    };
    let pin = PinRow {
        tool: "ads:createCampaign".parse().unwrap(),
        pin: Digest::of(b"{}"),
        definition: "{}".into(),
        status: PinStatus::Proposed,
        at: 5,
        by: None,
    };
    let freeze = FreezeRow { target: FreezeTarget::Principal("eve".into()), reason: "why".into(), at: 5, event: id };
    let ops = vec![
        StateOp::IdempotencyBegin { row: key },
        StateOp::IntentOpen { row: Box::new(intent) },
        StateOp::PinPropose { row: pin },
        StateOp::Freeze { row: freeze },
        StateOp::WorkspaceKey { workspace: "w".parse().unwrap(), wrapped: vec![9; 48] },
        StateOp::CountRefusals { minute: 7, counts: vec![("unauthenticated".into(), 3)] },
    ];
    running.append(Append { events: vec![event], ops, ..Append::default() }).unwrap();
    running.append_n("w", 1);
    drop(running);
    std::fs::write("tests/fixtures/v1.sql", dump(&node.database)).unwrap();
}

fn dump(path: &std::path::Path) -> String {
    let c = rusqlite::Connection::open(path).unwrap();
    let number = |sql: &str| c.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    let texts = |sql: &str| -> Vec<String> {
        c.prepare(sql).unwrap().query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let mut out = String::new();
    let schema =
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type = 'index', name = 'answer', name = 'head'";
    texts(schema).iter().for_each(|sql| out += &format!("{sql};\n"));
    for table in texts("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name IN ('answer', 'head'), name")
    {
        let columns =
            texts(&format!("SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')")).join(" || ',' || ");
        texts(&format!("SELECT {columns} FROM {table}"))
            .iter()
            .for_each(|row| out += &format!("INSERT INTO {table} VALUES ({row});\n"));
    }
    out + &format!(
        "PRAGMA user_version = {};\nPRAGMA application_id = {};\n",
        number("PRAGMA user_version"),
        number("PRAGMA application_id")
    )
}
