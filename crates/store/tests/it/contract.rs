//! What every store must pass: the contract of [`countersign_ledger::contract`] and [`countersign_ledger::state`], as tests.
//!
//! Each store's test calls [`run_all`] with a function that opens a fresh, empty store. Expiry is tested with times in
//! the past and the future of the store's own clock, so that nothing waits and no clock is replaced.

use countersign_domain::obligation::ObligationKind;
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Effect, Millis, Obligations, Principal, ToolRef, WorkspaceName};
use countersign_proof::digest::Digest;
use countersign_proof::witness::TreeHead;
use uuid::Uuid;

use countersign_ledger::artifacts::{ArtifactQuery, ArtifactRow};
use countersign_ledger::connections::{ConnectionKey, ConnectionRow, ConnectionStage};
use countersign_ledger::contract::{
    CommitError, EventQuery, EventRow, Group, Head, Opening, ShardRow, Store, StoreError, Tail,
};
use countersign_ledger::directory::{DirectoryKind, DirectoryRow};
use countersign_ledger::leaf::{EntryRow, LogEntry, MAX_BODY, MAX_PUBLIC};
use countersign_ledger::objects::{ObjectRef, Retention, RetentionMode};
use countersign_ledger::state::{
    AnswerRow, BudgetKey, BudgetRow, CLOCK_SLACK, Conflict, DecisionRow, FreezeRow, FreezeTarget, IdempotencyRow,
    IdempotencyState, IntentRow, IntentState, PinRow, PinStatus, RequestRow, RequestStatus, StateOp, first_id_at,
};
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_ledger::witness::{CosignatureRow, KEPT, WitnessedRow};

/// Runs the whole suite; panics where the store breaks the contract.
pub fn run_all<S: Store>(mut fresh: impl FnMut() -> S) {
    groups_are_all_or_nothing(&mut fresh());
    the_log_is_read_back_as_written(&mut fresh());
    an_event_has_one_place(&mut fresh());
    public_entries_stand_among_events(&mut fresh());
    a_public_entry_has_one_place(&mut fresh());
    reads_of_public_entries_are_bounded(&mut fresh());
    events_are_found_by_what_is_asked(&mut fresh());
    an_append_is_all_or_nothing(&mut fresh());
    requests_are_consumed_once(&mut fresh());
    requests_expire_and_are_revoked(&mut fresh());
    open_requests_are_unique_and_capped(&mut fresh());
    idempotency_keys_are_taken_once(&mut fresh());
    unknown_writes_stand_in_the_way(&mut fresh());
    budgets_are_never_overspent(&mut fresh());
    pauses_last(&mut fresh());
    freezes_refuse(&mut fresh());
    pins_are_proposed_and_accepted(&mut fresh());
    bodies_are_erased_and_commitments_stay(&mut fresh());
    decisions_are_kept_for_a_while(&mut fresh());
    the_directory_changes_by_checked_operations(&mut fresh());
    connections_change_one_at_a_time(&mut fresh());
    signatures_and_verifications_are_found(&mut fresh());
    versions_of_artifacts_follow_one_another(&mut fresh());
    connections_of_all_are_read_in_pages(&mut fresh());
    a_witness_moves_on_from_what_it_decided_upon(&mut fresh());
    cosignatures_are_found_by_what_they_cover(&mut fresh());
    cosignatures_are_kept_for_receipts(&mut fresh());
    small_state_is_kept(&mut fresh());
}

fn id(n: u8) -> Uuid {
    Uuid::from_bytes([n, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, n])
}

fn workspace(name: &str) -> WorkspaceName {
    name.parse().unwrap()
}

fn tool() -> ToolRef {
    "ads:createCampaign".parse().unwrap()
}

fn person(name: &str) -> PrincipalRecord {
    PrincipalRecord { id: name.into(), ..Principal::node().record() }
}

fn event(index: u64, seq: u64, kind: &str) -> EventRow {
    let n = u8::try_from(index).unwrap();
    EventRow {
        shard: 0,
        index,
        id: id(n),
        workspace: workspace(if index.is_multiple_of(2) { "even" } else { "odd" }),
        seq,
        kind: kind.into(),
        time: 1000 + index,
        commitment: Digest::of(&[n]),
        opening: Some(Opening { salt: [n; 32], event: vec![b'{', n, b'}'], detail_salt: Some([7; 32]) }),
        call: Some(id(200 + n / 2)),
        principal: Some(format!("agent-{}", index % 3)),
        tool: (index > 2).then(|| tool().to_string()),
        subject: (index == 3).then(|| "artifact-3".into()),
    }
}

fn shard() -> ShardRow {
    ShardRow { shard: 0, origin: "a.example".into(), vkey: "vkey".into(), checkpoint: None, size: 0 }
}

fn head(size: u64) -> Head {
    Head {
        shard: 0,
        origin: "a.example".into(),
        size,
        root: [9; 32],
        frontier: vec![[1; 32], [2; 32]],
        checkpoint: format!("note {size}"),
    }
}

/// A committed group.
fn write<T>(store: &mut impl Store, work: impl FnOnce(&mut dyn Group) -> T) -> T {
    let mut group = store.begin().unwrap();
    let result = work(&mut *group);
    group.commit().unwrap();
    result
}

fn apply(store: &mut impl Store, ops: &[StateOp]) -> Result<(), Conflict> {
    write(store, |group| group.apply(ops).unwrap())
}

fn now(store: &mut impl Store) -> Millis {
    store.begin().unwrap().now().unwrap()
}

fn groups_are_all_or_nothing(store: &mut impl Store) {
    let reader = store.reader();
    {
        let mut group = store.begin().unwrap();
        group.open_shard(&shard()).unwrap();
        group.insert(&event(0, 1, "log.opened")).unwrap();
        group.set_head(&head(1)).unwrap();
        assert_eq!(group.head().unwrap(), Some(head(1)), "a group sees its own writes");
        assert_eq!(group.tail(&workspace("even")).unwrap().map(|t| t.seq), Some(1));
        assert_eq!(reader.head().unwrap(), None, "readers see only what is committed");
        assert_eq!(reader.event(id(0)).unwrap(), None);
    }
    assert_eq!(store.begin().unwrap().head().unwrap(), None, "a dropped group leaves nothing behind");
    assert!(reader.shards().unwrap().is_empty());
}

fn the_log_is_read_back_as_written(store: &mut impl Store) {
    let tile: Vec<_> = (0..=255).map(|n| [n; 32]).collect();
    let rows: Vec<_> = (0..4).map(|n| event(n, n / 2 + 1, "call.completed")).collect();
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        rows.iter().for_each(|row| group.insert(row).unwrap());
        group.put_tile(0, 1, 5, &tile).unwrap();
        group.set_head(&head(3)).unwrap();
        group.set_head(&head(4)).unwrap();
    });
    let reader = store.reader();
    assert_eq!(reader.head().unwrap(), Some(head(4)));
    let known = ShardRow { checkpoint: Some("note 4".into()), size: 4, ..shard() };
    assert_eq!(reader.shards().unwrap(), [known], "a shard's row follows its head");
    assert_eq!(reader.event(id(2)).unwrap().as_ref(), Some(&rows[2]));
    assert_eq!(reader.leaves(0, 1, 2).unwrap(), rows[1..3]);
    assert!(reader.leaves(1, 0, 9).unwrap().is_empty());
    assert_eq!(reader.entries(0, 1, 3).unwrap(), [1, 2].map(|n| LogEntry::Event(rows[n].commitment)));
    assert_eq!(reader.tile(0, 1, 5).unwrap(), Some(tile));
    assert_eq!(reader.tile(0, 1, 4).unwrap(), None);
    let tail = Tail { seq: 2, commitment: rows[3].commitment };
    assert_eq!(reader.tail(&workspace("odd")).unwrap(), Some(tail));
    assert_eq!(store.begin().unwrap().tail(&workspace("odd")).unwrap(), Some(tail));
    assert_eq!(reader.tail(&workspace("none")).unwrap(), None);
    assert_eq!(reader.workspaces().unwrap(), [workspace("even"), workspace("odd")]);
}

fn an_event_has_one_place(store: &mut impl Store) {
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        group.insert(&event(0, 1, "call.denied")).unwrap();
    });
    for row in
        [EventRow { index: 1, ..event(0, 2, "call.denied") }, EventRow { id: id(9), ..event(0, 2, "call.denied") }]
    {
        let mut group = store.begin().unwrap();
        group.set_head(&head(2)).unwrap();
        let inserted = group.insert(&row).map_err(CommitError::Undone).and_then(|()| group.commit());
        assert!(matches!(inserted, Err(CommitError::Undone(StoreError::Corrupt(_)))), "same id or same leaf");
        assert_eq!(store.reader().head().unwrap(), None, "nothing of the group is stored");
    }
}

fn public(index: u64) -> EntryRow {
    let n = u8::try_from(index % 256).unwrap();
    let id = Uuid::from_u128(0x7000_8000_0000_0000_0000 + u128::from(index));
    EntryRow { shard: 0, index, id, workspace: workspace("even"), body: vec![b'{', n, b'}'] }
}

fn public_entries_stand_among_events(store: &mut impl Store) {
    let events = [event(0, 1, "log.opened"), event(3, 1, "call.completed")];
    let longest = EntryRow { body: vec![b'{'; MAX_BODY], ..public(2) };
    let entries = [public(1), longest, public(5)];
    {
        let mut group = store.begin().unwrap();
        group.open_shard(&shard()).unwrap();
        group.insert_entry(&entries[0]).unwrap();
        group.set_head(&head(1)).unwrap();
    }
    let reader = store.reader();
    assert_eq!(reader.public_entry(entries[0].id).unwrap(), None, "a dropped group leaves nothing behind");
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        group.insert(&events[0]).unwrap();
        entries[..2].iter().for_each(|row| group.insert_entry(row).unwrap());
        group.insert(&events[1]).unwrap();
        group.insert_entry(&entries[2]).unwrap();
        group.set_head(&head(6)).unwrap();
    });
    let leaf = |index: u64| match index {
        0 | 3 => LogEntry::Event(events[usize::from(index > 0)].commitment),
        _ => LogEntry::Public(entries[usize::from(index > 1)].body.clone()),
    };
    let leaves = |range: std::ops::Range<u64>| range.map(leaf).collect::<Vec<_>>();
    for (from, to) in [(0, 4), (1, 3), (0, 1), (1, 2), (2, 4), (3, 4), (2, 2)] {
        assert_eq!(reader.entries(0, from, to).unwrap(), leaves(from..to), "{from}..{to}");
    }
    assert_eq!(reader.entries(0, 0, 9).unwrap(), leaves(0..4), "leaves end before the first that is missing");
    assert!(reader.entries(0, 4, 9).unwrap().is_empty() && reader.entries(1, 0, 9).unwrap().is_empty());
    for row in &entries {
        assert_eq!(reader.public_entry(row.id).unwrap().as_ref(), Some(row));
        assert_eq!(reader.public_entry_at(0, row.index).unwrap().as_ref(), Some(row));
    }
    assert_eq!(reader.public_entry(events[0].id).unwrap(), None);
    assert_eq!(reader.public_entry_at(0, 0).unwrap(), None, "an event stands there");
    assert_eq!(reader.public_entry_at(1, 1).unwrap(), None);
    assert_eq!(reader.public_entries(0, 1, 2).unwrap(), entries[..2]);
    assert_eq!(reader.public_entries(0, 3, 9).unwrap(), entries[2..]);
    assert!(reader.public_entries(1, 0, 9).unwrap().is_empty());
    assert_eq!(reader.leaves(0, 0, 9).unwrap(), events, "what asks for events is given events");
    let tail = Tail { seq: 1, commitment: events[0].commitment };
    assert_eq!(reader.tail(&workspace("even")).unwrap(), Some(tail), "public entries move no workspace's tail");
}

fn a_public_entry_has_one_place(store: &mut impl Store) {
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        group.insert_entry(&public(1)).unwrap();
    });
    for row in [EntryRow { index: 2, ..public(1) }, EntryRow { id: id(9), ..public(1) }] {
        let mut group = store.begin().unwrap();
        let inserted = group.insert_entry(&row).map_err(CommitError::Undone);
        let inserted = inserted.and_then(|()| group.set_head(&head(2)).map_err(CommitError::Undone));
        let inserted = inserted.and_then(|()| group.commit());
        assert!(matches!(inserted, Err(CommitError::Undone(StoreError::Corrupt(_)))), "same id or same leaf");
        assert_eq!(store.reader().head().unwrap(), None, "nothing of the group is stored");
    }
    // Nothing but the sequencer keeps an event out of its place; a reader does not choose between the two.
    write(store, |group| {
        group.insert(&event(0, 1, "log.opened")).unwrap();
        group.insert(&event(1, 1, "call.denied")).unwrap();
    });
    assert!(matches!(store.reader().entries(0, 0, 2), Err(StoreError::Corrupt(_))));
}

fn reads_of_public_entries_are_bounded(store: &mut impl Store) {
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        (0..5).for_each(|n| group.insert(&event(n, n / 2 + 1, "call.completed")).unwrap());
        (5..MAX_PUBLIC as u64 + 15).for_each(|n| group.insert_entry(&public(n)).unwrap());
        group.insert(&EventRow { index: MAX_PUBLIC as u64 + 15, ..event(15, 6, "call.completed") }).unwrap();
        group.set_head(&head(MAX_PUBLIC as u64 + 16)).unwrap();
    });
    let reader = store.reader();
    let first = reader.entries(0, 0, u64::MAX).unwrap();
    assert_eq!(first.len(), MAX_PUBLIC + 5);
    let rest = reader.entries(0, first.len() as u64, u64::MAX).unwrap();
    assert_eq!(rest.len(), 11);
    assert_eq!(rest[10], LogEntry::Event(event(15, 6, "call.completed").commitment));
    let bodies = (5..MAX_PUBLIC as u64 + 15).map(|n| LogEntry::Public(public(n).body));
    assert!(first[5..].iter().chain(&rest[..10]).cloned().eq(bodies), "pages neither skip nor repeat");
    assert_eq!(reader.public_entries(0, 0, 1000).unwrap().len(), MAX_PUBLIC);
}

fn events_are_found_by_what_is_asked(store: &mut impl Store) {
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        for n in 0..10 {
            let kind = if n < 5 { "call.completed" } else { "approval.granted" };
            group.insert(&event(n, n / 2 + 1, kind)).unwrap();
        }
    });
    let reader = store.reader();
    let all = EventQuery { limit: 1000, ..EventQuery::default() };
    let check = |query: EventQuery, expected: &[u64]| {
        let page = reader.events(&query).unwrap();
        let found: Vec<u64> = page.rows.iter().map(|(_, row)| row.index).collect();
        assert_eq!(found, expected, "{query:?}");
        assert!(!page.more);
    };
    check(EventQuery { workspace: Some(workspace("odd")), ..all.clone() }, &[1, 3, 5, 7, 9]);
    check(EventQuery { kind: Some("call.".into()), ..all.clone() }, &[0, 1, 2, 3, 4]);
    check(EventQuery { kind: Some("approval.granted".into()), ..all.clone() }, &[5, 6, 7, 8, 9]);
    check(EventQuery { kind: Some("call".into()), ..all.clone() }, &[]);
    check(EventQuery { principal: Some("agent-1".into()), descending: true, ..all.clone() }, &[7, 4, 1]);
    check(EventQuery { tool: Some(tool().to_string()), until: Some(1005), ..all.clone() }, &[3, 4]);
    check(EventQuery { call: Some(id(201)), ..all.clone() }, &[2, 3]);
    check(EventQuery { subject: Some("artifact-3".into()), ..all.clone() }, &[3]);
    check(EventQuery { since: Some(1008), ..all.clone() }, &[8, 9]);
    let calls = reader.events_of_call(id(203)).unwrap();
    assert_eq!(calls.iter().map(|row| row.index).collect::<Vec<_>>(), [6, 7]);
    for descending in [false, true] {
        let mut query = EventQuery { limit: 4, descending, ..EventQuery::default() };
        let mut seen = Vec::new();
        loop {
            let page = reader.events(&query).unwrap();
            seen.extend(page.rows.iter().map(|(_, row)| row.index));
            query.cursor = page.rows.last().map(|(position, _)| *position);
            if !page.more {
                break;
            }
        }
        let mut expected: Vec<u64> = (0..10).collect();
        if descending {
            expected.reverse();
        }
        assert_eq!(seen, expected, "pages neither skip nor repeat");
    }
}

fn an_append_is_all_or_nothing(store: &mut impl Store) {
    let key = StateOp::WorkspaceKey { workspace: workspace("w"), wrapped: vec![1] };
    let kept = StateOp::WorkspaceKey { workspace: workspace("kept"), wrapped: vec![2] };
    let conflict = write(store, |group| {
        group.apply(&[kept]).unwrap().unwrap();
        group.apply(&[key, StateOp::IntentClose { call: id(1) }]).unwrap()
    });
    assert_eq!(conflict, Err(Conflict::NotFound));
    let reader = store.reader();
    assert_eq!(reader.workspace_key(&workspace("w")).unwrap(), None);
    assert_eq!(reader.workspace_key(&workspace("kept")).unwrap(), Some(vec![2]), "the group's other appends stay");
}

fn request(n: u8, now: Millis) -> RequestRow {
    RequestRow {
        id: id(n),
        workspace: workspace("w"),
        requester: "agent".into(),
        requester_keys: vec!["agent".into(), "boss".into()],
        person_key: Some("boss".into()),
        principal: person("agent"),
        tool: tool(),
        effect: Effect::Write,
        pin: Digest::of(b"pin"),
        fingerprint: [n; 32],
        arguments: vec![1, 2, 3],
        owed: Obligations { confirm: true, approvals: 1, expires_seconds: 60, ..Obligations::default() },
        policy_version: "v1".into(),
        status: RequestStatus::Pending,
        created: now,
        expires: now + 60_000,
        event: id(n),
        answers: Vec::new(),
        closed_by: None,
        execute_on_approval: true,
    }
}

fn open(row: RequestRow) -> StateOp {
    StateOp::OpenRequest { row: Box::new(row), cap: 3 }
}

fn answer(request: u8, name: &str, kind: ObligationKind, granted: bool) -> StateOp {
    let answer = AnswerRow {
        person: name.into(),
        principal: person(name),
        kind,
        granted,
        at: 0,
        event: id(77),
        reason: Some("because".into()),
    };
    StateOp::Answer { request: id(request), answer }
}

fn is_state(result: Result<(), Conflict>, expected: RequestStatus) -> bool {
    matches!(result, Err(Conflict::RequestState(row)) if row.status == expected)
}

fn requests_are_consumed_once(store: &mut impl Store) {
    use ObligationKind::{Approval, Confirm};
    let now = now(store);
    let redeem = || StateOp::Redeem { request: id(1) };
    assert_eq!(apply(store, &[redeem()]), Err(Conflict::NotFound));
    apply(store, &[open(request(1, now))]).unwrap();
    assert_eq!(store.reader().request(id(1)).unwrap(), Some(request(1, now)), "read back as written");
    assert_eq!(apply(store, &[answer(1, "boss", Approval, true)]), Err(Conflict::SelfApproval));
    assert_eq!(apply(store, &[answer(9, "amy", Approval, true)]), Err(Conflict::NotFound));
    apply(store, &[answer(1, "boss", Confirm, true)]).unwrap();
    assert_eq!(apply(store, &[answer(1, "boss", Confirm, true)]), Err(Conflict::AlreadyAnswered));
    assert!(is_state(apply(store, &[redeem()]), RequestStatus::Pending), "one approval is still owed");
    apply(store, &[answer(1, "amy", Approval, true)]).unwrap();
    let row = store.reader().request(id(1)).unwrap().unwrap();
    assert!(row.is_met());
    assert_eq!(row.answers.iter().map(|a| a.person.as_str()).collect::<Vec<_>>(), ["boss", "amy"], "oldest first");
    assert!(row.answers.iter().all(|a| a.at >= now), "the database's time counts");
    assert_eq!(row.answers[1].reason.as_deref(), Some("because"));
    let both = write(store, |group| (group.apply(&[redeem()]).unwrap(), group.apply(&[redeem()]).unwrap()));
    assert_eq!(both.0, Ok(()));
    assert!(is_state(both.1, RequestStatus::Redeemed), "not even within one group");
    assert!(is_state(apply(store, &[answer(1, "eve", Approval, true)]), RequestStatus::Redeemed));
    apply(store, &[StateOp::CloseRequest { request: id(1), closed_by: id(42) }]).unwrap();
    assert_eq!(store.reader().request(id(1)).unwrap().unwrap().closed_by, Some(id(42)));
}

fn requests_expire_and_are_revoked(store: &mut impl Store) {
    let now = now(store);
    let past = |n| RequestRow { expires: now - 1, created: now - 100, ..request(n, now) };
    apply(store, &[open(past(1))]).unwrap();
    apply(store, &[open(request(2, now))]).unwrap();
    let pending = RequestStatus::Pending;
    assert!(is_state(apply(store, &[answer(1, "amy", ObligationKind::Approval, true)]), pending), "too late");
    assert!(is_state(apply(store, &[StateOp::Redeem { request: id(1) }]), pending));
    assert!(is_state(apply(store, &[StateOp::Expire { request: id(2), closed_by: id(9) }]), pending), "too early");
    let late = store.reader().expired_requests(now, 10).unwrap();
    assert_eq!(late.iter().map(|r| r.id).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(store.reader().request_by_fingerprint(&[1; 32]).unwrap(), None, "expired whoever looks");
    apply(store, &[StateOp::Expire { request: id(1), closed_by: id(9) }]).unwrap();
    apply(store, &[open(request(3, now))]).unwrap();
    apply(store, &[StateOp::Withdraw { request: id(3), closed_by: id(6) }]).unwrap();
    let withdrawn = RequestStatus::Withdrawn;
    assert!(is_state(apply(store, &[StateOp::Withdraw { request: id(3), closed_by: id(5) }]), withdrawn));
    assert!(is_state(apply(store, &[StateOp::Redeem { request: id(3) }]), withdrawn));
    assert_eq!(store.reader().request(id(3)).unwrap().map(|r| (r.status, r.closed_by)), Some((withdrawn, Some(id(6)))));
    apply(store, &[StateOp::Revoke { request: id(2), closed_by: id(8) }]).unwrap();
    assert!(is_state(apply(store, &[StateOp::Revoke { request: id(2), closed_by: id(7) }]), RequestStatus::Revoked));
    let reader = store.reader();
    let rows = reader.requests(Some(&workspace("w")), None, None, 10).unwrap();
    let found: Vec<_> = rows.iter().map(|r| (r.id, r.status, r.closed_by)).collect();
    let found = &found[1..];
    let expected = [(id(2), RequestStatus::Revoked, Some(id(8))), (id(1), RequestStatus::Expired, Some(id(9)))];
    assert_eq!(found, expected, "newest first");
    assert_eq!(reader.requests(None, Some(RequestStatus::Revoked), None, 10).unwrap().len(), 1);
    assert_eq!(reader.requests(None, None, Some(id(2)), 10).unwrap().len(), 1);
    assert_eq!(reader.requests(None, None, None, 1).unwrap().len(), 1);
    assert!(reader.requests(Some(&workspace("other")), None, None, 10).unwrap().is_empty());
}

fn open_requests_are_unique_and_capped(store: &mut impl Store) {
    let now = now(store);
    let same = |n: u8, f: u8| RequestRow { fingerprint: [f; 32], ..request(n, now) };
    let exists = |r: Result<(), Conflict>| matches!(r, Err(Conflict::RequestExists(row)) if row.id == id(1));
    apply(store, &[open(request(1, now))]).unwrap();
    assert!(exists(apply(store, &[open(same(2, 1))])));
    apply(store, &[answer(1, "amy", ObligationKind::Approval, false)]).unwrap();
    let denied = store.reader().request(id(1)).unwrap().unwrap();
    assert_eq!((denied.status, denied.closed_by), (RequestStatus::Denied, Some(id(77))));
    assert!(exists(apply(store, &[open(same(2, 1))])), "a denial is sticky until the expiry");
    assert_eq!(store.reader().request_by_fingerprint(&[1; 32]).unwrap().map(|r| r.id), Some(id(1)));
    let over = RequestRow { status: RequestStatus::Denied, expires: now - 1, ..same(3, 2) };
    apply(store, &[open(over)]).unwrap();
    apply(store, &[open(same(4, 2))]).unwrap();
    apply(store, &[open(request(5, now))]).unwrap();
    apply(store, &[open(request(6, now))]).unwrap();
    assert_eq!(apply(store, &[open(request(7, now))]), Err(Conflict::TooManyOpen { open: 3 }));
    let other = RequestRow { requester: "other".into(), ..request(7, now) };
    apply(store, &[open(other)]).unwrap();
}

fn idempotency_keys_are_taken_once(store: &mut impl Store) {
    use IdempotencyState::{Done, InFlight, Pending, Unknown};
    let now = now(store);
    let row = |scope: u8, state, expires| IdempotencyRow {
        scope: [scope; 32],
        fingerprint: [scope; 32],
        state,
        call: id(scope),
        answer: None,
        expires,
    };
    let begin = |row: IdempotencyRow| StateOp::IdempotencyBegin { row };
    let first = row(1, InFlight, now + 60_000);
    apply(store, &[begin(first.clone())]).unwrap();
    let taken = apply(store, &[begin(row(1, InFlight, now))]);
    assert_eq!(taken, Err(Conflict::IdempotencyExists(Box::new(first.clone()))));
    let set = |scope: u8, state, answer| StateOp::IdempotencySet { scope: [scope; 32], state, answer };
    apply(store, &[set(1, Done, Some(vec![5]))]).unwrap();
    let done = IdempotencyRow { state: Done, answer: Some(vec![5]), ..first };
    assert_eq!(store.reader().idempotency(&[1; 32]).unwrap(), Some(done));
    apply(store, &[StateOp::IdempotencyDrop { scope: [1; 32] }]).unwrap();
    assert_eq!(store.reader().idempotency(&[1; 32]).unwrap(), None);
    for (scope, state, replaced) in [(2, Done, true), (3, Pending, true), (4, InFlight, false), (5, Unknown, false)] {
        apply(store, &[begin(row(scope, InFlight, now - 1)), set(scope, state, None)]).unwrap();
        let again = apply(store, &[begin(row(scope, InFlight, now + 60_000))]);
        assert_eq!(again.is_ok(), replaced, "past its time and {state:?}");
    }
    apply(store, &[set(99, Done, None)]).unwrap();
}

fn unknown_writes_stand_in_the_way(store: &mut impl Store) {
    let intent = |n: u8, fingerprint: u8| IntentRow {
        call: id(n),
        workspace: workspace("w"),
        principal: person("agent"),
        tool: tool(),
        pin: Digest::of(b"pin"),
        effect: Effect::Destructive,
        fingerprint: [fingerprint; 32],
        event: id(n),
        state: IntentState::Open,
        at: u64::from(n),
        idempotency: Some([n; 32]),
    };
    let open = |row: IntentRow| StateOp::IntentOpen { row: Box::new(row) };
    let now = now(store);
    let key = IdempotencyRow {
        scope: [1; 32],
        fingerprint: [1; 32],
        state: IdempotencyState::InFlight,
        call: id(1),
        answer: None,
        expires: now + 1000,
    };
    apply(store, &[StateOp::IdempotencyBegin { row: key }, open(intent(1, 1)), open(intent(2, 1))]).unwrap();
    apply(store, &[StateOp::IntentUnknown { call: id(1) }]).unwrap();
    assert_eq!(store.reader().idempotency(&[1; 32]).unwrap().unwrap().state, IdempotencyState::Unknown);
    assert_eq!(apply(store, &[StateOp::IntentUnknown { call: id(1) }]), Err(Conflict::NotFound), "said once");
    assert_eq!(apply(store, &[open(intent(3, 1))]), Err(Conflict::OutcomeUnknown { call: id(1) }));
    apply(store, &[open(intent(3, 2))]).unwrap();
    apply(store, &[StateOp::IntentClose { call: id(2) }]).unwrap();
    assert_eq!(apply(store, &[StateOp::IntentClose { call: id(2) }]), Err(Conflict::NotFound));
    assert_eq!(apply(store, &[StateOp::IntentUnknown { call: id(2) }]), Err(Conflict::NotFound));
    let left = store.reader().intents().unwrap();
    assert_eq!(left, [IntentRow { state: IntentState::Unknown, ..intent(1, 1) }, intent(3, 2)], "oldest first");
    apply(store, &[StateOp::IntentClose { call: id(1) }, open(intent(4, 1))]).unwrap();
}

fn budgets_are_never_overspent(store: &mut impl Store) {
    let now = now(store);
    let (start, end) = (now - 1000, now + 3_600_000);
    let key = |who: &str| BudgetKey { budget: "daily.cost".into(), workspace: workspace("w"), principal: who.into() };
    let spend = |who: &str, start, end, amount| StateOp::BudgetSpend { key: key(who), start, end, amount, limit: 10 };
    apply(store, &[spend("a", start, end, 4)]).unwrap();
    apply(store, &[spend("a", start, end, 6)]).unwrap();
    let over = Err(Conflict::BudgetSpent { key: key("a"), used: 10, limit: 10, until: end });
    assert_eq!(apply(store, &[spend("a", start, end, 1)]), over);
    let first_alone = Err(Conflict::BudgetSpent { key: key("b"), used: 0, limit: 10, until: end });
    assert_eq!(apply(store, &[spend("b", start, end, 11)]), first_alone);
    assert_eq!(apply(store, &[spend("c", start, end, 5), spend("a", start, end, 1)]), over);
    assert_eq!(store.reader().budget(&key("c"), start).unwrap(), 0, "an append is all or nothing");
    apply(store, &[StateOp::BudgetReturn { key: key("a"), start, amount: 3 }]).unwrap();
    apply(store, &[StateOp::BudgetReturn { key: key("nobody"), start, amount: 3 }]).unwrap();
    assert_eq!(store.reader().budget(&key("a"), start).unwrap(), 7);
    let row = BudgetRow { key: key("a"), start, end, used: 7 };
    assert_eq!(store.reader().budgets(now).unwrap(), [row]);
    assert!(store.reader().budgets(end).unwrap().is_empty(), "its period is over");
    apply(store, &[spend("a", start - 1, end, 10)]).unwrap();
    for (start, end) in [(now - 10, now - CLOCK_SLACK - 5), (now + CLOCK_SLACK + 60_000, now + CLOCK_SLACK + 90_000)] {
        let wrong = apply(store, &[spend("a", start, end, 1)]);
        assert!(matches!(wrong, Err(Conflict::BudgetSpent { .. })), "not a period of now: {wrong:?}");
    }
}

fn pauses_last(store: &mut impl Store) {
    let begin = |key: u8, pause| StateOp::CooldownBegin { key: [key; 32], pause };
    apply(store, &[begin(1, 600_000)]).unwrap();
    let until = store.reader().cooldown(&[1; 32]).unwrap().unwrap();
    assert!(until > now(store) + 500_000);
    assert_eq!(apply(store, &[begin(1, 5)]), Err(Conflict::CoolingDown { until }));
    apply(store, &[begin(2, 5)]).unwrap();
    apply(store, &[StateOp::CooldownDrop { key: [1; 32] }, StateOp::CooldownDrop { key: [9; 32] }]).unwrap();
    assert_eq!(store.reader().cooldown(&[1; 32]).unwrap(), None);
    apply(store, &[begin(1, 0)]).unwrap();
    apply(store, &[begin(1, 600_000)]).unwrap();
}

fn freezes_refuse(store: &mut impl Store) {
    let targets = [
        FreezeTarget::Principal("6:issuer|agent".into()),
        FreezeTarget::Tool(tool()),
        FreezeTarget::Upstream("ads".parse().unwrap()),
        FreezeTarget::Workspace(workspace("w")),
    ];
    let require = || StateOp::RequireNotFrozen { targets: targets.to_vec() };
    let row = |target: &FreezeTarget, reason: &str| FreezeRow {
        target: target.clone(),
        reason: reason.into(),
        at: 5,
        event: id(1),
    };
    for target in &targets {
        apply(store, &[require()]).unwrap();
        apply(store, &[StateOp::Freeze { row: row(target, "first") }]).unwrap();
        apply(store, &[StateOp::Freeze { row: row(target, "second") }]).unwrap();
        assert_eq!(apply(store, &[require()]), Err(Conflict::Frozen(row(target, "second"))));
        assert_eq!(store.reader().freezes().unwrap(), [row(target, "second")]);
        let other = StateOp::RequireNotFrozen { targets: vec![FreezeTarget::Principal("another".into())] };
        apply(store, &[other]).unwrap();
        apply(store, &[StateOp::Unfreeze { target: target.clone() }]).unwrap();
        assert_eq!(apply(store, &[StateOp::Unfreeze { target: target.clone() }]), Err(Conflict::NotFound));
    }
}

fn pins_are_proposed_and_accepted(store: &mut impl Store) {
    let row = |text: &str, status, by: Option<&str>| PinRow {
        tool: tool(),
        pin: Digest::of(text.as_bytes()),
        definition: text.into(),
        status,
        at: 3,
        by: by.map(Into::into),
    };
    let (accepted, proposed) = (PinStatus::Accepted, PinStatus::Proposed);
    let accept = |text: &str| StateOp::PinAccept { row: row(text, accepted, Some("amy")) };
    let propose = |text: &str| StateOp::PinPropose { row: row(text, proposed, None) };
    assert_eq!(apply(store, &[accept("one")]), Err(Conflict::NotFound));
    apply(store, &[propose("zero"), propose("one")]).unwrap();
    assert_eq!(apply(store, &[accept("zero")]), Err(Conflict::NotFound), "a later proposal replaced it");
    apply(store, &[accept("one")]).unwrap();
    assert_eq!(store.reader().pins().unwrap(), [row("one", accepted, Some("amy"))]);
    apply(store, &[propose("two")]).unwrap();
    let both = [row("one", accepted, Some("amy")), row("two", proposed, None)];
    assert_eq!(store.reader().pins().unwrap(), both, "the proposal waits beside the accepted one");
    apply(store, &[StateOp::PinWithdraw { tool: tool() }]).unwrap();
    assert_eq!(store.reader().pins().unwrap(), both[..1]);
    apply(store, &[accept("one"), propose("two"), accept("two")]).unwrap();
    assert_eq!(store.reader().pins().unwrap(), [row("two", accepted, Some("amy"))]);
}

fn bodies_are_erased_and_commitments_stay(store: &mut impl Store) {
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        group.insert(&event(0, 1, "log.opened")).unwrap();
        group.insert(&event(1, 1, "call.completed")).unwrap();
        group.insert(&event(2, 2, "event.erased")).unwrap();
    });
    let erase = |n| StateOp::Erase { event: id(n) };
    apply(store, &[erase(1)]).unwrap();
    let expected = EventRow { opening: None, ..event(1, 1, "call.completed") };
    assert_eq!(store.reader().event(id(1)).unwrap(), Some(expected));
    for (n, why) in [(1, "already erased"), (9, "unknown"), (0, "opens the log"), (2, "explains an erasure")] {
        assert_eq!(apply(store, &[erase(n)]), Err(Conflict::NotFound), "{why}");
    }
}

fn decisions_are_kept_for_a_while(store: &mut impl Store) {
    let at = |time: Millis| Uuid::from_u128(first_id_at(time).as_u128() | 0x7000_8000_0000_0000_0001);
    let row = |time, n: u8| DecisionRow { call: at(time), sealed: vec![n; 40] };
    let keep = |row: &DecisionRow| StateOp::KeepDecision { row: row.clone() };
    let reader = store.reader();
    assert_eq!((reader.oldest_decision().unwrap(), reader.position_at(0).unwrap()), (None, None));
    let events: Vec<EventRow> = [1000, 2000, 3000]
        .into_iter()
        .zip(0..)
        .map(|(time, n)| EventRow {
            id: at(time),
            call: Some(at(time)),
            seq: n + 1,
            workspace: workspace("w"),
            ..event(n, 0, "call.completed")
        })
        .collect();
    write(store, |group| {
        group.open_shard(&shard()).unwrap();
        // Each with its event, as the ledger does it.
        let ops: Vec<[StateOp; 1]> = [1000, 2000].map(|time| [keep(&row(time, 1))]).into();
        let ops: Vec<&[StateOp]> = ops.iter().map(<[StateOp; 1]>::as_slice).collect();
        assert!(group.apply_all(&ops).unwrap().iter().all(Result::is_ok));
        events.iter().for_each(|row| group.insert(row).unwrap());
        group.set_head(&head(3)).unwrap();
    });
    let found = |times: &[Millis]| {
        let calls: Vec<Uuid> = times.iter().copied().map(at).collect();
        let mut found = reader.decisions(&calls).unwrap();
        found.sort_by_key(|row| row.call);
        found
    };
    assert_eq!(found(&[2000, 9, 1000]), [row(1000, 1), row(2000, 1)]);
    assert_eq!(found(&[]), []);
    let position = |time| reader.position_at(time).unwrap().map(|position| position & 0xff);
    assert_eq!([0, 1001, 3000, 3001].map(position), [Some(0), Some(1), Some(2), None]);

    let refused = [keep(&row(3000, 1)), StateOp::Unfreeze { target: FreezeTarget::Tool(tool()) }];
    assert_eq!(apply(store, &refused), Err(Conflict::NotFound));
    assert_eq!(found(&[3000]), [], "kept only with its append");
    apply(store, &[keep(&row(3000, 1))]).unwrap();
    apply(store, &[keep(&row(3000, 2))]).unwrap();
    assert_eq!(found(&[3000]), [row(3000, 1)], "the first one stays");

    apply(store, &[StateOp::Erase { event: events[1].id }]).unwrap();
    assert_eq!(found(&[1000, 2000, 3000]), [row(1000, 1), row(3000, 1)], "erased with its event");
    let forget = |before, limit| StateOp::ForgetDecisions { before, limit };
    apply(store, &[forget(1000, 10)]).unwrap();
    assert_eq!(reader.oldest_decision().unwrap(), Some(at(1000)));
    apply(store, &[forget(9000, 1)]).unwrap();
    assert_eq!(found(&[1000, 3000]), [row(3000, 1)], "the oldest first, no more than asked for");
    apply(store, &[forget(9000, 10)]).unwrap();
    assert_eq!(reader.oldest_decision().unwrap(), None);
}

fn the_directory_changes_by_checked_operations(store: &mut impl Store) {
    let row = |kind, space: &str, name: &str, n: u8| DirectoryRow {
        kind,
        workspace: workspace(space),
        name: name.into(),
        body: format!("{{\"n\":{n}}}"),
        at: u64::from(n),
        event: id(n),
        used: None,
    };
    let add = |row: &DirectoryRow| StateOp::DirectoryAdd { row: row.clone(), cap: 2 };
    let (key, other) = (row(DirectoryKind::ApiKey, "w", "k", 1), row(DirectoryKind::ApiKey, "v", "k", 2));
    let role = row(DirectoryKind::Role, "w", "teller\n3:idp|ada", 3);
    let reader = store.reader();
    assert_eq!((reader.directory_version().unwrap(), reader.directory().unwrap().rows.len()), (0, 0));
    apply(store, &[add(&key), add(&other), add(&role)]).unwrap();
    assert_eq!(apply(store, &[add(&key)]), Err(Conflict::Exists));
    assert_eq!(apply(store, &[add(&row(DirectoryKind::ApiKey, "w", "l", 4))]), Err(Conflict::Full { cap: 2 }));
    let all = reader.directory().unwrap();
    assert_eq!(all.rows, [other.clone(), key.clone(), role.clone()], "read back as written, in order");
    assert_eq!(all.version, reader.directory_version().unwrap());
    let used = |name: &str, at| StateOp::DirectoryUsed {
        kind: DirectoryKind::ApiKey,
        workspace: workspace("w"),
        name: name.into(),
        at,
    };
    apply(store, &[used("k", 70), used("k", 60), used("gone", 80)]).unwrap();
    assert_eq!(reader.directory_version().unwrap(), all.version, "use is no change");
    let changed = DirectoryRow { body: "{}".into(), at: 9, event: id(9), ..key.clone() };
    apply(store, &[StateOp::DirectorySet { row: changed.clone(), from: None }]).unwrap();
    let now = reader.directory().unwrap();
    assert!(now.version > all.version, "others notice a change by its number");
    assert_eq!(now.rows[1], DirectoryRow { used: Some(70), ..changed.clone() });
    let remove = |name: &str| StateOp::DirectoryRemove {
        kind: DirectoryKind::ApiKey,
        workspace: workspace("w"),
        name: name.into(),
    };
    // Who read the row before that change must not undo it.
    let stale = DirectoryRow { body: "{\"stale\":1}".into(), event: id(10), ..key.clone() };
    let set = |row: &DirectoryRow, from| StateOp::DirectorySet { row: row.clone(), from };
    let unknown = row(DirectoryKind::Workspace, "w", "w", 1);
    for op in [remove("gone"), set(&unknown, None), set(&unknown, Some(id(1))), set(&stale, Some(key.event))] {
        assert_eq!(apply(store, &[op]), Err(Conflict::NotFound));
    }
    let third = row(DirectoryKind::Workspace, "v", "v", 12);
    assert_eq!(apply(store, &[add(&third), set(&stale, Some(key.event))]), Err(Conflict::NotFound));
    assert_eq!(reader.directory().unwrap(), now, "nothing of its append is left");
    assert_eq!(reader.directory_version().unwrap(), now.version, "nor is what was refused");
    let next = DirectoryRow { body: "{\"n\":11}".into(), at: 11, event: id(11), ..key.clone() };
    let after_another = [set(&next, Some(changed.event)), set(&stale, Some(next.event)), set(&next, Some(stale.event))];
    apply(store, &after_another).unwrap();
    assert_eq!(reader.directory().unwrap().rows[1], DirectoryRow { used: Some(70), ..next.clone() });
    assert_eq!(apply(store, &[set(&stale, Some(changed.event))]), Err(Conflict::NotFound), "one follows each");
    apply(store, &[remove("k")]).unwrap();
    assert_eq!(reader.directory().unwrap().rows, [other, role]);
}

fn signatures_and_verifications_are_found(store: &mut impl Store) {
    let row = |n: u8, kind, signer: &str| TrustRow {
        id: first_id_at(u64::from(n) * 1000 + 1),
        workspace: workspace("w"),
        kind,
        at: u64::from(n) * 1000,
        artifact: format!("sha256:{}", n % 2),
        artifact_type: if n < 3 { "sbom" } else { "release" }.into(),
        subject: (n == 1).then(|| "app:1".into()),
        chain: (n > 1).then(|| "scan-7".into()),
        signer: signer.into(),
        valid: (kind == Verification).then_some(n == 4),
        body: format!("{{\"n\":{n}}}"),
    };
    use TrustKind::{Signature, Verification};
    let rows = [row(1, Signature, "a"), row(2, Signature, "b"), row(3, Signature, "a"), row(4, Verification, "a")];
    for row in &rows {
        apply(store, &[StateOp::TrustRecord { row: Box::new(row.clone()) }]).unwrap();
    }
    let other = TrustRow { id: id(9), workspace: workspace("v"), ..rows[0].clone() };
    apply(store, &[StateOp::TrustRecord { row: Box::new(other.clone()) }]).unwrap();
    let reader = store.reader();
    assert_eq!(reader.trust_row(other.id).unwrap(), Some(other), "read back as written");
    assert_eq!(reader.trust_row(id(1)).unwrap(), None);
    let all = TrustQuery::of(workspace("w"));
    let found = |query: &TrustQuery| -> Vec<u64> {
        reader.trust_rows(query).unwrap().rows.iter().map(|row| row.at / 1000).collect()
    };
    assert_eq!(found(&all), [4, 3, 2, 1], "newest first, and nobody else's");
    let text = |text: &str| Some(text.to_owned());
    for (query, expected) in [
        (TrustQuery { kind: Some(Signature), ..all.clone() }, vec![3, 2, 1]),
        (TrustQuery { artifact: text("sha256:1"), ..all.clone() }, vec![3, 1]),
        (TrustQuery { artifact_type: text("sbom"), ..all.clone() }, vec![2, 1]),
        (TrustQuery { signer: text("a"), kind: Some(Signature), ..all.clone() }, vec![3, 1]),
        (TrustQuery { valid: Some(true), ..all.clone() }, vec![4]),
        (TrustQuery { valid: Some(false), ..all.clone() }, vec![]),
        (TrustQuery { about: text("scan-7"), ..all.clone() }, vec![4, 3, 2]),
        (TrustQuery { about: text("app:1"), ..all.clone() }, vec![1]),
        (TrustQuery { about: text("sha256:0"), signer: text("b"), ..all.clone() }, vec![2]),
        (TrustQuery { since: Some(2000), until: Some(4000), ..all.clone() }, vec![3, 2]),
        (TrustQuery { since: Some(u64::MAX), ..all.clone() }, vec![]),
        (TrustQuery { before: Some(rows[2].id), ..all.clone() }, vec![2, 1]),
    ] {
        assert_eq!(found(&query), expected, "{query:?}");
    }
    let page = reader.trust_rows(&TrustQuery { limit: 3, ..all.clone() }).unwrap();
    assert!(page.more && page.rows.len() == 3);
    assert!(!reader.trust_rows(&TrustQuery { limit: 4, ..all }).unwrap().more);
    let counts = reader.trust_counts(&workspace("w")).unwrap();
    assert_eq!(counts.iter().map(|count| count.count).sum::<u64>(), 4);
    let verified: Vec<_> = counts.iter().filter(|count| count.kind == Verification).collect();
    assert_eq!((verified.len(), verified[0].valid, verified[0].signer.as_str()), (1, Some(true), "a"));
}

fn versions_of_artifacts_follow_one_another(store: &mut impl Store) {
    let row = |n: u8, artifact: u8, version: u64| ArtifactRow {
        entry: first_id_at(u64::from(n) * 1000 + 1),
        workspace: workspace("w"),
        id: id(artifact),
        version,
        artifact_type: if artifact == 1 { "audit_package" } else { "trial_match" }.into(),
        created: format!("2026-01-0{n}T00:00:00Z"),
        at: u64::from(n) * 1000,
        digest: Digest::of(&[n]),
        kid: "key".into(),
        object: ObjectRef {
            key: format!("artifacts/{n}"),
            version: (n == 2).then(|| "v".into()),
            size: u64::from(n),
            digest: Digest::of(&[n, n]),
            retention: (n == 2).then_some(Retention { mode: RetentionMode::Compliance, until: 7000 }),
            held: false,
        },
        compliance: if n == 3 { vec!["HIPAA".into(), "FedRAMP-High".into()] } else { vec!["HIPAA".into()] },
        sources: if n > 2 { vec![id(1), id(200)] } else { vec![] },
    };
    let add = |row: &ArtifactRow| StateOp::ArtifactAdd { row: Box::new(row.clone()) };
    let rows = [row(1, 1, 1), row(2, 1, 2), row(3, 2, 1), row(4, 3, 1)];
    apply(store, &[add(&rows[0])]).unwrap();
    // Two that write the same version: one does.
    let both = write(store, |group| {
        (
            group.apply(&[add(&rows[1])]).unwrap(),
            group.apply(&[add(&ArtifactRow { entry: id(77), ..rows[1].clone() })]).unwrap(),
        )
    });
    assert_eq!(both, (Ok(()), Err(Conflict::Exists)));
    for version in [1, 2, 4] {
        assert_eq!(apply(store, &[add(&row(9, 1, version))]), Err(Conflict::Exists), "version {version}");
    }
    assert_eq!(apply(store, &[add(&row(9, 4, 2))]), Err(Conflict::Exists), "a first version is 1");
    apply(store, &[add(&rows[2]), add(&rows[3])]).unwrap();
    // Another workspace's artifacts have names of their own.
    let other = ArtifactRow { workspace: workspace("v"), entry: first_id_at(5001), ..rows[0].clone() };
    apply(store, &[add(&other)]).unwrap();
    let reader = store.reader();
    let one = |name: &str, artifact, version| reader.artifact(&workspace(name), id(artifact), version).unwrap();
    assert_eq!(one("w", 1, None), Some(rows[1].clone()), "the newest, read back as written");
    assert_eq!(one("w", 1, Some(1)), Some(rows[0].clone()));
    assert_eq!((one("w", 1, Some(3)), one("v", 2, None)), (None, None));
    assert_eq!(one("v", 1, None), Some(other));
    // A hold is on a version, and changes nothing else of it.
    for held in [true, true, false, true] {
        apply(store, &[StateOp::ArtifactHold { entry: rows[1].entry, held }]).unwrap();
        let object = ObjectRef { held, ..rows[1].object.clone() };
        assert_eq!(one("w", 1, Some(2)), Some(ArtifactRow { object, ..rows[1].clone() }));
    }
    assert_eq!(one("w", 1, Some(1)), Some(rows[0].clone()));
    let unknown = StateOp::ArtifactHold { entry: id(99), held: true };
    assert_eq!(apply(store, &[unknown]), Err(Conflict::NotFound));
    let all = ArtifactQuery::of(workspace("w"));
    let found = |query: &ArtifactQuery| -> Vec<u64> {
        reader.artifacts(query).unwrap().rows.iter().map(|row| row.at / 1000).collect()
    };
    for (query, expected) in [
        (all.clone(), vec![4, 3, 2, 1]),
        (ArtifactQuery { id: Some(id(1)), ..all.clone() }, vec![2, 1]),
        (ArtifactQuery { artifact_type: Some("trial_match".into()), ..all.clone() }, vec![4, 3]),
        (ArtifactQuery { compliance: vec!["HIPAA".into(), "FedRAMP-High".into()], ..all.clone() }, vec![3]),
        (ArtifactQuery { source: Some(id(200)), ..all.clone() }, vec![4, 3]),
        (ArtifactQuery { since: Some(2000), until: Some(4000), ..all.clone() }, vec![3, 2]),
        (ArtifactQuery { before: Some(rows[2].entry), ..all.clone() }, vec![2, 1]),
    ] {
        assert_eq!(found(&query), expected, "{query:?}");
    }
    let page = reader.artifacts(&ArtifactQuery { limit: 3, ..all.clone() }).unwrap();
    assert!(page.more && page.rows.len() == 3);
    assert!(!reader.artifacts(&ArtifactQuery { limit: 4, ..all }).unwrap().more);
    let behind = |entry, limit| reader.artifacts_behind(entry, limit).unwrap().into_iter().map(|r| r.at / 1000);
    assert!(behind(None, 3).eq([1, 2, 3]) && behind(Some(rows[2].entry), 9).eq([4, 1]), "of all workspaces, in order");
    // What follows a version under hold is under hold, by the row as it is when it is added.
    let of_u = |n: u8, version: u64, held: bool| {
        let plain = row(n, 1, version);
        ArtifactRow { workspace: workspace("u"), object: ObjectRef { held, ..plain.object.clone() }, ..plain }
    };
    let hold = |n: u8, held| StateOp::ArtifactHold { entry: row(n, 1, 1).entry, held };
    apply(store, &[add(&of_u(6, 1, false))]).unwrap();
    assert_eq!(apply(store, &[add(&of_u(7, 2, true))]), Err(Conflict::HoldChanged));
    apply(store, &[hold(6, true)]).unwrap();
    assert_eq!(apply(store, &[add(&of_u(7, 2, false))]), Err(Conflict::HoldChanged), "the hold would be lost");
    assert_eq!(apply(store, &[add(&of_u(7, 3, false))]), Err(Conflict::Exists), "whichever hold it has");
    assert_eq!(one("u", 1, Some(2)), None);
    apply(store, &[add(&of_u(7, 2, true))]).unwrap();
    let all = write(store, |group| {
        (
            group.apply(&[hold(7, false)]).unwrap(),
            group.apply(&[add(&of_u(8, 3, true))]).unwrap(),
            group.apply(&[add(&of_u(8, 3, false))]).unwrap(),
        )
    });
    assert_eq!(all, (Ok(()), Err(Conflict::HoldChanged), Ok(())), "also in one group");
    assert_eq!(one("u", 1, None), Some(of_u(8, 3, false)));
}

fn connections_change_one_at_a_time(store: &mut impl Store) {
    let now = now(store);
    let key = |person: &str, stage| ConnectionKey {
        workspace: workspace("w"),
        upstream: "ads".parse().unwrap(),
        person: person.into(),
        stage,
    };
    let row = |person: &str, stage, version: u8| ConnectionRow {
        key: key(person, stage),
        version: [version; 32],
        body: format!("{{\"n\":{version}}}"),
        sealed: vec![version, 0, 255],
        expires: None,
        at: u64::from(version),
        event: Some(id(version)),
    };
    let put = |row: &ConnectionRow, from: Option<u8>| StateOp::ConnectionPut {
        row: Box::new(row.clone()),
        from: from.map(|version| [version; 32]),
    };
    let take =
        |row: &ConnectionRow, version: u8| StateOp::ConnectionTake { key: row.key.clone(), version: [version; 32] };
    use ConnectionStage::{Connected, Consented, Started};
    let first = row("ada", Connected, 1);
    let reader = store.reader();
    assert_eq!(apply(store, &[put(&first, Some(1))]), Err(Conflict::NotFound), "nothing to follow");
    apply(store, &[put(&first, None)]).unwrap();
    assert_eq!(reader.connection(&first.key).unwrap(), Some(first.clone()), "read back as written");
    // Two that renew the same version: one does.
    let (second, third) = (row("ada", Connected, 2), row("ada", Connected, 3));
    let both = write(store, |group| {
        (group.apply(&[put(&second, Some(1))]).unwrap(), group.apply(&[put(&third, Some(1))]).unwrap())
    });
    assert_eq!(both, (Ok(()), Err(Conflict::NotFound)), "not even within one group");
    assert_eq!(reader.connection(&first.key).unwrap(), Some(second.clone()));
    assert_eq!(apply(store, &[take(&second, 1)]), Err(Conflict::NotFound), "an older version");
    // Stages, people and workspaces do not meet.
    let started = ConnectionRow { expires: Some(now + 60_000), event: None, ..row("ada", Started, 4) };
    let other = row("bert", Connected, 5);
    apply(store, &[put(&started, None), put(&other, None)]).unwrap();
    assert_eq!(reader.connections(&workspace("w"), "ada").unwrap(), [second.clone(), started.clone()]);
    assert!(reader.connections(&workspace("v"), "ada").unwrap().is_empty());
    assert_eq!(reader.connection_of(Started, &[4; 32]).unwrap(), Some(started.clone()));
    assert_eq!(reader.connection_of(Connected, &[4; 32]).unwrap(), None, "of another stage");
    // What is under way is used up once, and not after its time.
    let both =
        write(store, |group| (group.apply(&[take(&started, 4)]).unwrap(), group.apply(&[take(&started, 4)]).unwrap()));
    assert_eq!(both, (Ok(()), Err(Conflict::NotFound)));
    let late = ConnectionRow { expires: Some(now - 1), ..row("ada", Consented, 6) };
    apply(store, &[put(&late, None)]).unwrap();
    assert_eq!(apply(store, &[take(&late, 6)]), Err(Conflict::NotFound), "too late");
    apply(store, &[take(&second, 2), take(&other, 5)]).unwrap();
    assert_eq!(reader.connection(&second.key).unwrap(), None);
}

fn connections_of_all_are_read_in_pages(store: &mut impl Store) {
    use ConnectionStage::{Connected, Consented, Started};
    let row = |space: &str, person: &str, upstream: &str, stage, version: u8| ConnectionRow {
        key: ConnectionKey {
            workspace: workspace(space),
            upstream: upstream.parse().unwrap(),
            person: person.into(),
            stage,
        },
        version: [version; 32],
        body: "{}".into(),
        sealed: vec![version],
        // One that expired is read as well.
        expires: (stage == Started).then_some(1),
        at: u64::from(version),
        event: None,
    };
    // In the order of bytes, whatever a language thinks of these letters.
    let expected = [
        row("w", "19:https://idp.example|Zoe", "crm", Connected, 1),
        row("w", "19:https://idp.example|ada", "ads", Started, 2),
        row("w", "19:https://idp.example|ada", "crm", Connected, 3),
        row("w", "19:https://idp.example|ada", "crm", Consented, 4),
        row("w", "19:https://idp.example|ada", "crm", Started, 5),
        row("w", "19:https://idp.example|ähn", "ads", Connected, 6),
    ];
    let elsewhere = row("v", "19:https://idp.example|ada", "crm", Connected, 7);
    for row in expected.iter().rev().chain([&elsewhere]) {
        apply(store, &[StateOp::ConnectionPut { row: Box::new(row.clone()), from: None }]).unwrap();
    }
    let reader = store.reader();
    let page = |behind: Option<&ConnectionRow>, limit| {
        let behind = behind.map(|row| (row.key.person.as_str(), &row.key.upstream));
        reader.connections_in(&workspace("w"), behind, limit).unwrap()
    };
    assert_eq!(page(None, u32::MAX), expected);
    assert_eq!(page(None, 3), expected[..3]);
    assert_eq!(page(Some(&expected[2]), 10), expected[5..], "behind all stages of that one");
    assert_eq!(page(Some(&expected[1]), 1), expected[2..3]);
    assert!(page(Some(&expected[5]), 10).is_empty());
    assert_eq!(reader.connections_in(&workspace("v"), None, 10).unwrap(), [elsewhere]);
    assert!(reader.connections_in(&workspace("u"), None, 10).unwrap().is_empty());
}

fn a_witness_moves_on_from_what_it_decided_upon(store: &mut impl Store) {
    let head = |size: u64, root: u8| TreeHead { size, root: [root; 32] };
    let row = |origin: &str, head: TreeHead| WitnessedRow {
        origin: origin.into(),
        head,
        checkpoint: format!("note {}", head.size),
        at: 5,
        forked: None,
    };
    let witness = |row: &WitnessedRow, from| StateOp::Witness { row: Box::new(row.clone()), from };
    let fork = |origin: &str, size| StateOp::WitnessFork { origin: origin.into(), size };
    let reader = store.reader();
    let (first, second) = (row("a.example", head(7, 1)), row("a.example", head(9, 2)));
    assert_eq!(reader.witnessed("a.example").unwrap(), None);
    assert_eq!(apply(store, &[witness(&second, Some(head(7, 1)))]), Err(Conflict::Witnessed), "there is none yet");
    apply(store, &[witness(&first, None)]).unwrap();
    assert_eq!(reader.witnessed("a.example").unwrap(), Some(first.clone()), "read back as written");
    // Two requests that were decided upon the same state: one is stored, whether they come together or not.
    let slower = row("a.example", head(8, 3));
    let both = write(store, |group| {
        let mut apply = |row: &WitnessedRow| group.apply(&[witness(row, Some(head(7, 1)))]).unwrap();
        (apply(&second), apply(&slower))
    });
    assert_eq!(both, (Ok(()), Err(Conflict::Witnessed)), "not even within one group");
    assert_eq!(apply(store, &[witness(&slower, Some(head(7, 1)))]), Err(Conflict::Witnessed));
    assert_eq!(apply(store, &[witness(&slower, Some(head(9, 3)))]), Err(Conflict::Witnessed), "another root");
    assert_eq!(apply(store, &[witness(&slower, None)]), Err(Conflict::Witnessed));
    assert_eq!(reader.witnessed("a.example").unwrap(), Some(second.clone()));
    // A contradiction is noted once, and only while the size that it is about is the latest.
    assert_eq!(apply(store, &[fork("a.example", 7)]), Err(Conflict::NotFound));
    assert_eq!(apply(store, &[fork("b.example", 9)]), Err(Conflict::NotFound));
    apply(store, &[fork("a.example", 9)]).unwrap();
    assert_eq!(apply(store, &[fork("a.example", 9)]), Err(Conflict::Exists));
    let again = WitnessedRow { at: 6, ..second.clone() };
    apply(store, &[witness(&again, Some(second.head))]).unwrap();
    assert_eq!(reader.witnessed("a.example").unwrap(), Some(WitnessedRow { forked: Some(9), ..again }));
    let third = row("a.example", head(20, 4));
    apply(store, &[witness(&third, Some(second.head))]).unwrap();
    let third = WitnessedRow { forked: Some(9), ..third };
    assert_eq!(reader.witnessed("a.example").unwrap(), Some(third.clone()), "what it did is not forgotten");
    apply(store, &[fork("a.example", 20)]).unwrap();
    assert_eq!(apply(store, &[fork("a.example", 20)]), Err(Conflict::Exists), "once for each size");
    let third = WitnessedRow { forked: Some(20), ..third };
    let other = row("Z.example", head(0, 5));
    apply(store, &[witness(&other, None)]).unwrap();
    assert_eq!(reader.all_witnessed().unwrap(), [other, third], "in the order of bytes");
}

fn cosigned(shard: u32, size: u64, witness: &str) -> CosignatureRow {
    CosignatureRow {
        shard,
        size,
        witness: witness.into(),
        line: format!("— {witness} {size}"),
        checkpoint: format!("note {size}"),
        at: size,
    }
}

fn keep(row: &CosignatureRow) -> StateOp {
    StateOp::Cosignature { row: Box::new(row.clone()) }
}

fn cosignatures_are_found_by_what_they_cover(store: &mut impl Store) {
    let rows = [(5, "b"), (5, "a"), (9, "a"), (12, "a"), (12, "b"), (15, "b")].map(|(size, w)| cosigned(0, size, w));
    rows.iter().for_each(|row| apply(store, &[keep(row)]).unwrap());
    let elsewhere = cosigned(1, 30, "a");
    apply(store, &[keep(&elsewhere)]).unwrap();
    let reader = store.reader();
    for (above, up_to, expected) in [
        (0, 100, vec![3, 4]),
        (0, 11, vec![1, 0]),
        (5, 11, vec![2]),
        (11, 12, vec![3, 4]),
        (12, u64::MAX, vec![5]),
        (15, 100, vec![]),
        (9, 11, vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|n: usize| rows[n].clone()).collect();
        assert_eq!(reader.cosignatures(0, above, up_to).unwrap(), expected, "{above}..={up_to}");
    }
    assert_eq!(reader.cosignatures(1, 0, 100).unwrap(), [elsewhere]);
    assert_eq!(reader.newest_cosignatures(0).unwrap(), [rows[3].clone(), rows[5].clone()]);
    assert!(reader.newest_cosignatures(2).unwrap().is_empty());
    let again = CosignatureRow { line: "— a again".into(), at: 99, ..rows[2].clone() };
    apply(store, &[keep(&again)]).unwrap();
    assert_eq!(reader.cosignatures(0, 5, 11).unwrap(), [again], "the newer one of the same witness");
}

fn cosignatures_are_kept_for_receipts(store: &mut impl Store) {
    // Two witnesses at first; then one of them is away for long.
    let both = [cosigned(0, 3, "a"), cosigned(0, 3, "b")];
    let mut ops: Vec<StateOp> = both.iter().map(keep).collect();
    ops.push(keep(&cosigned(0, 2, "a")));
    ops.extend((0..u64::from(KEPT) + 5).map(|n| keep(&cosigned(0, 10 + n, "a"))));
    ops.iter().for_each(|op| apply(store, std::slice::from_ref(op)).unwrap());
    let reader = store.reader();
    assert_eq!(reader.cosignatures(0, 0, u64::MAX).unwrap(), both, "the best one is never forgotten");
    assert!(reader.cosignatures(0, 0, 2).unwrap().is_empty(), "an older one was");
    assert!(reader.cosignatures(0, 3, 14).unwrap().is_empty(), "those beyond the number were");
    assert_eq!(reader.cosignatures(0, 3, 15).unwrap(), [cosigned(0, 15, "a")], "the others are there");
}

fn small_state_is_kept(store: &mut impl Store) {
    let key = |wrapped: u8| StateOp::WorkspaceKey { workspace: workspace("w"), wrapped: vec![wrapped] };
    apply(store, &[key(1), key(2)]).unwrap();
    assert_eq!(store.reader().workspace_key(&workspace("w")).unwrap(), Some(vec![1]), "the first one stays");
    assert_eq!(store.reader().workspaces().unwrap(), [workspace("w")]);
    let minute = now(store) / 60_000;
    let count = |n| StateOp::CountRefusals { minute, counts: vec![("unauthenticated/expired".into(), n)] };
    apply(store, &[count(2)]).unwrap();
    apply(store, &[count(3)]).unwrap();
    assert_eq!(store.reader().refusals(minute).unwrap(), [(minute, "unauthenticated/expired".into(), 5)]);
    assert!(store.reader().refusals(minute + 1).unwrap().is_empty());
    store.maintain().unwrap();
}
