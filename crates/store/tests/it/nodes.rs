//! Several nodes on one Postgres database: one log without forks, whoever writes, whichever database stands there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Effect, Principal};
use countersign_ledger::state::{Conflict, FreezeRow, FreezeTarget, IntentRow, IntentState, StateOp};
use countersign_ledger::{
    Append, AppendError, FsckOptions, Ledger, LedgerOptions, OpenError, OpenReason, PublicEntry, Store, StoreError,
    fsck,
};
use countersign_proof::digest::Digest;
use countersign_proof::merkle::verify_inclusion;
use countersign_store::{PostgresOptions, PostgresStore};
use countersign_testkit::postgres::{Postgres, fresh_schema, query};

use crate::faults::{Faulty, Mode, arm, plan};
use crate::support::{Running, SEED, entry, new_id, one, public, verifies, with_ops, with_public};

/// One node's own things.
pub(crate) struct Place {
    url: String,
    head: PathBuf,
    replica: String,
}

impl Place {
    pub(crate) fn new(url: &str, dir: &Path, replica: &str) -> Self {
        Self { url: url.to_owned(), head: dir.join(replica).join("head"), replica: replica.to_owned() }
    }

    pub(crate) fn store(&self) -> PostgresStore {
        let options = PostgresOptions { replica: Some(self.replica.clone()), ..PostgresOptions::new(&self.url) };
        PostgresStore::open(options).unwrap()
    }

    pub(crate) fn options(&self) -> LedgerOptions {
        let mut options = LedgerOptions::new("log.example", SEED, &self.head);
        options.undecided_wait = Duration::from_secs(2);
        options
    }

    pub(crate) fn try_open(&self, store: impl Store, options: LedgerOptions) -> Result<Running, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (ledger, opened) = Ledger::open(store, options)?;
        Ok(Running { runtime, ledger, opened })
    }

    pub(crate) fn open(&self) -> Running {
        self.try_open(self.store(), self.options()).unwrap_or_else(|e| panic!("{}: {e}", self.replica))
    }

    pub(crate) fn join(&self) -> Running {
        let options = LedgerOptions { join: true, ..self.options() };
        self.try_open(self.store(), options).unwrap_or_else(|e| panic!("{}: {e}", self.replica))
    }

    pub(crate) fn assert_sound(&self) -> u64 {
        let store = PostgresStore::open(PostgresOptions::new(&self.url)).unwrap();
        let report = fsck(&*store.reader(), &FsckOptions { head_file: Some(self.head.clone()), anchors: Vec::new() });
        assert!(report.is_ok(), "{:#?}", report.findings);
        report.events
    }
}

/// Waits for what must come soon.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !check() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_nodes_write_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let url = fresh_schema().unwrap();
    let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
    let first = a.open();
    assert_eq!(first.opened.reason, Some(OpenReason::FirstStart));
    let second = b.join();
    assert_eq!((second.opened.reason, &second.opened.origin), (None, &first.opened.origin));
    // Turn by turn, and both at once; the workspaces are shared, so that each must see the other's tails.
    for _ in 0..20 {
        first.append_n("w", 1);
        second.append_n("w", 2);
    }
    std::thread::scope(|scope| {
        for running in [&first, &second] {
            scope.spawn(move || (0..150).for_each(|n| drop(running.append_n(["w", "v", "u"][n % 3], 1))));
        }
    });
    assert_eq!(a.assert_sound(), 1 + 60 + 300);
    // A node that is idle follows, so that its receipts are of the newest head and its head file knows it.
    let last = first.append_n("w", 1).remove(0);
    eventually("an idle node follows", || second.ledger.head().size == 362);
    assert!(verifies(&second.receipt(last.id), &second.opened.vkey));
    assert_eq!(b.assert_sound(), 362);
    // "Once" holds over nodes.
    let key = |n| StateOp::WorkspaceKey { workspace: "w".parse().unwrap(), wrapped: vec![n] };
    first.append(with_ops(entry("w"), vec![key(1)])).unwrap();
    second.append(with_ops(entry("w"), vec![key(2)])).unwrap();
    assert_eq!(second.ledger.reader().workspace_key(&"w".parse().unwrap()).unwrap(), Some(vec![1]));
    drop((first, second));
    // The nodes start again in another order, with their own head files.
    let (second, first) = (b.open(), a.open());
    assert!(first.opened.reason.is_none() && second.opened.reason.is_none());
    first.append_n("w", 1);
    second.append_n("w", 1);
    drop((first, second));
    assert_eq!((a.assert_sound(), b.assert_sound()), (366, 366));
}

#[test]
fn nodes_take_over_each_others_public_entries() {
    let dir = tempfile::tempdir().unwrap();
    let url = fresh_schema().unwrap();
    let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
    let (first, second) = (a.open(), b.join());
    // What the other wrote since one's own last group, at the beginning, in the middle and at the end of it; then more
    // than a group has at hand.
    let some = |n: usize| (0..n).map(|_| public("w")).collect::<Vec<_>>();
    for n in [1, 2, 300, 1] {
        first.append(Append { entries: some(n), ..Append::default() }).unwrap();
        second.append_n("w", 1);
        first.append(with_public(entry("w"), some(n))).unwrap();
        let appended = second.append(with_public(entry("v"), some(1))).unwrap();
        first.append_n("w", 2);
        assert_eq!(appended.entries[0].index, appended.events[0].index + 1);
        let proof = first.runtime.block_on(first.ledger.inclusion(0, appended.entries[0].index)).unwrap().unwrap();
        verify_inclusion(&appended.entries[0].leaf, proof.index, proof.size, &proof.hashes, &proof.root).unwrap();
    }
    std::thread::scope(|scope| {
        for running in [&first, &second] {
            scope.spawn(move || (0..50).for_each(|_| drop(running.append(with_public(entry("u"), some(2))).unwrap())));
        }
    });
    let last = first.append(Append { entries: some(1), ..Append::default() }).unwrap().entries.remove(0);
    eventually("an idle node follows", || second.ledger.head().size == last.index + 1);
    drop((first, second));
    let events = 1 + 4 * 5 + 100;
    assert_eq!((a.assert_sound(), b.assert_sound()), (events, events));
    drop((b.open(), a.open()));
}

#[test]
fn a_public_entry_of_unknown_fate_is_not_taken_for_another_of_the_same_body() {
    for (mode, stored) in [(Mode::Lost, false), (Mode::Kept, true)] {
        let dir = tempfile::tempdir().unwrap();
        let url = fresh_schema().unwrap();
        let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
        drop(a.open());
        let shared = plan(mode, None, 6);
        let first = a.try_open(Faulty(a.store(), std::sync::Arc::clone(&shared)), a.options()).unwrap();
        let second = b.join();
        let body = br#"{"kind":"hashedrekord"}"#;
        let same = || PublicEntry::new(new_id(), "w".parse().unwrap(), body.to_vec()).unwrap();
        let append = |running: &Running| running.append(Append { entries: vec![same()], ..Append::default() });
        first.append_n("w", 1);
        // Nothing is known of the group until the other node has written.
        arm(&shared, "commit");
        let (theirs, ours) = std::thread::scope(|scope| {
            let ours = scope.spawn(|| append(&first));
            eventually("the commit fails", || shared.lock().unwrap().fired.is_some());
            (append(&second).unwrap().entries.remove(0), ours.join().unwrap())
        });
        match (stored, ours) {
            (true, Ok(ours)) => assert_eq!((ours.entries[0].index, theirs.index), (2, 3)),
            (false, Err(AppendError::Unavailable(_))) => assert_eq!(theirs.index, 2),
            (_, other) => panic!("{mode:?}: {other:?}, {theirs:?}"),
        }
        first.append_n("w", 1);
        drop((first, second));
        assert_eq!(a.assert_sound(), 3);
    }
}

#[test]
fn a_node_joins_a_log_only_as_itself_and_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let url = fresh_schema().unwrap();
    Place::new(&url, dir.path(), "a").open().append_n("w", 3);
    let b = Place::new(&url, dir.path(), "b");
    let join = || LedgerOptions { join: true, ..b.options() };
    let refused = |options| b.try_open(b.store(), options).err().expect("refused");
    assert!(matches!(refused(b.options()), OpenError::NotJoined));
    let stranger = LedgerOptions { seed: [9; 32], ..join() };
    assert!(matches!(refused(stranger), OpenError::NotOurs { what: "the key", .. }));
    let elsewhere = LedgerOptions { log_domain: "other.example".into(), ..join() };
    assert!(matches!(refused(elsewhere), OpenError::NotOurs { what: "the domain", .. }));
    b.join().append_n("w", 1);
    let stranger = LedgerOptions { seed: [9; 32], ..b.options() };
    assert!(matches!(refused(stranger), OpenError::NotOurs { what: "the key", .. }), "also with a head file");
    assert_eq!(b.assert_sound(), 5, "no shard was opened by any of this");
}

#[test]
fn an_old_database_in_the_place_of_the_newer_is_not_signed_on() {
    let dir = tempfile::tempdir().unwrap();
    let place = std::env::temp_dir().join(format!("countersign-stale-{}", std::process::id()));
    let mut server = Postgres::create(&place).unwrap();
    let url = server.url();
    let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
    let (first, second) = (a.open(), b.join());
    first.append_n("w", 5);
    second.append_n("w", 1);
    server.stop_in_order().unwrap();
    let old = server.copy("old").unwrap();
    server.start().unwrap();
    let kept = |running: &Running| {
        let mut id = None;
        // The nodes come back by themselves, once both have vouched for the database.
        eventually("appends work again", || match running.append(one(entry("w"))) {
            Ok(appended) => {
                id = Some(appended.events[0].id);
                true
            }
            Err(AppendError::Unavailable(_)) => false,
            Err(error) => panic!("{error}"),
        });
        id.unwrap()
    };
    let lost = kept(&first);
    // Only one node writes; the other has seen it because it follows.
    eventually("the idle node follows", || second.ledger.head().size == 8);
    let newer = server.data().to_owned();
    server.stop_at_once().unwrap();
    server.replace_data(old);
    server.start().unwrap();
    // Whichever of the two connects first: none signs.
    for running in [&second, &first] {
        eventually("it is refused as stale", || {
            let refused = running.append(one(entry("w")));
            assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
            running.ledger.stats().stale
        });
    }
    assert_eq!(first.ledger.head().size, 8, "what was signed is still what is shown");
    // A node that starts now refuses too, with or without a memory of its own.
    drop(second);
    let error = b.try_open(b.store(), b.options()).err().expect("refused");
    assert!(matches!(error, OpenError::Stale(_)), "{error}");
    let c = Place::new(&url, dir.path(), "c");
    let error = c.try_open(c.store(), LedgerOptions { join: true, ..c.options() }).err().expect("refused");
    assert!(matches!(error, OpenError::Store(StoreError::Stale(_))), "{error}");
    // The newer database comes back, and everything goes on.
    server.stop_at_once().unwrap();
    let old = server.data().to_owned();
    server.replace_data(newer);
    server.start().unwrap();
    let second = b.open();
    kept(&first);
    kept(&second);
    assert!(first.ledger.reader().event(lost).unwrap().is_some());
    eventually("both know the newest head", || first.ledger.head().size == second.ledger.head().size);
    let size = a.assert_sound();
    drop((first, second));
    // It is lost for good: an operator opens a new shard, once; the others go on with it.
    server.stop_at_once().unwrap();
    server.replace_data(old);
    server.start().unwrap();
    let reopened = a.try_open(a.store(), LedgerOptions { reopen: true, ..a.options() }).unwrap();
    assert_eq!(reopened.opened.reason, Some(OpenReason::Restored));
    assert_eq!(reopened.opened.predecessor.as_ref().map(|p| p.size), Some(size));
    drop(reopened);
    let (first, second) = (a.open(), b.open());
    first.append_n("w", 1);
    second.append_n("w", 1);
    drop((first, second));
    a.assert_sound();
    b.assert_sound();
    drop(server);
    std::fs::remove_dir_all(&place).unwrap();
}

#[test]
fn a_server_that_forgets_commits_is_refused() {
    let place = std::env::temp_dir().join(format!("countersign-unsafe-{}", std::process::id()));
    let mut server = Postgres::create(&place).unwrap();
    for setting in ["fsync=off", "full_page_writes=off", "synchronous_commit=off"] {
        server.stop_at_once().unwrap();
        server.set(&[setting]);
        server.start().unwrap();
        let refused = PostgresStore::open(PostgresOptions::new(server.url())).err().expect("refused");
        assert!(matches!(&refused, StoreError::Unsafe(why) if why.contains(&setting[..5])), "{setting}: {refused}");
    }
    drop(server);
    std::fs::remove_dir_all(&place).unwrap();
}

#[test]
fn a_server_is_trusted_by_its_certificate_alone() {
    let place = std::env::temp_dir().join(format!("countersign-tls-{}", std::process::id()));
    let mut server = Postgres::create(&place).unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = server.place("server.crt", &made.cert.pem()).unwrap();
    let key = server.place("server.key", &made.signing_key.serialize_pem()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let roots = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (known, unknown) = (roots("known.pem", made.cert.pem()), roots("unknown.pem", other.cert.pem()));
    server.stop_in_order().unwrap();
    let files = [format!("ssl_cert_file={}", certificate.display()), format!("ssl_key_file={}", key.display())];
    server.set(&["ssl=on", &files[0], &files[1]]);
    server.start().unwrap();
    let open = |host: &str, more: &str| {
        let url = format!("postgres://countersign@{host}:{}/postgres?{more}", server.port());
        PostgresStore::open(PostgresOptions::new(url)).map_err(|e| e.to_string())
    };
    let secret = open("localhost", &format!("sslmode=verify-full&sslrootcert={known}")).unwrap();
    let plain = open("127.0.0.1", "").unwrap();
    let sql = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE application_name = 'countersign'";
    assert_eq!(query(&server.url(), sql).unwrap(), "1|2", "the one is encrypted, the other on loopback is not");
    drop((secret, plain));
    for (host, mode, roots, why) in [
        ("localhost", "require", &unknown, "signed by nobody that is trusted, whatever require means elsewhere"),
        ("127.0.0.1", "verify-full", &known, "made out to another name"),
    ] {
        let refused = open(host, &format!("sslmode={mode}&sslrootcert={roots}")).map(drop);
        assert!(refused.as_ref().is_err_and(|e| e.contains("TLS")), "{why}: {refused:?}");
    }
    drop(server);
    std::fs::remove_dir_all(&place).unwrap();
}

fn intent(n: u8) -> IntentRow {
    IntentRow {
        call: new_id(),
        workspace: "w".parse().unwrap(),
        principal: PrincipalRecord { id: "agent".into(), ..Principal::node().record() },
        tool: "ads:create".parse().unwrap(),
        pin: Digest::of(b"pin"),
        effect: Effect::Write,
        fingerprint: [n; 32],
        event: new_id(),
        state: IntentState::Open,
        at: u64::from(n),
        idempotency: None,
    }
}

#[test]
fn only_the_writes_of_dead_processes_are_abandoned() {
    let dir = tempfile::tempdir().unwrap();
    let url = fresh_schema().unwrap();
    let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
    let (first, second) = (a.open(), b.join());
    let (of_a, of_b) = (intent(1), intent(2));
    for (running, row) in [(&first, &of_a), (&second, &of_b)] {
        running.append(with_ops(entry("w"), vec![StateOp::IntentOpen { row: Box::new(row.clone()) }])).unwrap();
    }
    let reader = second.ledger.reader();
    let running = [of_b.call];
    assert!(reader.abandoned(&running).unwrap().is_empty(), "both live");
    assert_eq!(
        reader.abandoned(&[]).unwrap(),
        std::slice::from_ref(&of_b),
        "its own, whose call has ended without an outcome"
    );
    // The next process of the same replica says that the one before is dead; nobody waits for a lease.
    drop(a.store());
    assert_eq!(reader.abandoned(&running).unwrap(), [of_a]);
    // The lease of a node that nobody restarts runs out.
    query(&url, "UPDATE node SET seen = seen - 60000 WHERE replica = 'b'").unwrap();
    assert_eq!(reader.abandoned(&running).unwrap().len(), 2);
}

#[test]
fn nodes_that_sweep_together_say_once_that_an_outcome_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let url = fresh_schema().unwrap();
    let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
    let (first, second) = (a.open(), b.join());
    let rows: Vec<_> = (1..=20).map(intent).collect();
    for row in &rows {
        first.append(with_ops(entry("w"), vec![StateOp::IntentOpen { row: Box::new(row.clone()) }])).unwrap();
    }
    query(&url, "UPDATE intent SET owner = NULL").unwrap();
    // Both have looked before either has written.
    let barrier = std::sync::Barrier::new(2);
    let sweep = |running: &Running| {
        let found = running.ledger.reader().abandoned(&[]).unwrap();
        barrier.wait();
        assert_eq!(found.len(), rows.len());
        let said = |row: &IntentRow| {
            let unknown = StateOp::IntentUnknown { call: row.call };
            match running.append(with_ops(entry("w"), vec![unknown])) {
                Ok(_) => 1,
                Err(AppendError::Conflict(Conflict::NotFound)) => 0,
                Err(error) => panic!("{error}"),
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = found.iter().map(|row| scope.spawn(|| said(row))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        })
    };
    let said: usize = std::thread::scope(|scope| {
        let sweep = &sweep;
        let threads = [&first, &second].map(|running| scope.spawn(move || sweep(running)));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(said, rows.len(), "once for each call");
    assert_eq!(a.assert_sound(), 1 + 2 * 20);
}

#[test]
fn nodes_learn_what_the_others_changed() {
    let dir = tempfile::tempdir().unwrap();
    let url = fresh_schema().unwrap();
    let first = Place::new(&url, dir.path(), "a").open();
    let second = Place::new(&url, dir.path(), "b").join();
    let reader = second.ledger.reader();
    let begun = reader.changes(None).unwrap();
    assert!(begun.everything);
    let quiet = reader.changes(Some(begun.next)).unwrap();
    assert!(!quiet.everything && !quiet.freezes && quiet.requests.is_empty());
    let target = FreezeTarget::Upstream("ads".parse().unwrap());
    let row = FreezeRow { target: target.clone(), reason: "a\0b".into(), at: 1, event: new_id() };
    first.append(with_ops(entry("w"), vec![StateOp::Freeze { row: row.clone() }])).unwrap();
    let changed = reader.changes(Some(begun.next)).unwrap();
    assert!(changed.freezes && !changed.pins && !changed.everything);
    assert_eq!(reader.freezes().unwrap(), [row]);
    let require = StateOp::RequireNotFrozen { targets: vec![target] };
    let refused = second.append(Append { events: vec![entry("w")], ops: vec![require], ..Append::default() });
    assert!(matches!(refused, Err(AppendError::Conflict(Conflict::Frozen(_)))));
    // A list that was cut off says so.
    query(&url, "DELETE FROM change").unwrap();
    first.append(with_ops(entry("w"), vec![StateOp::Freeze { row: reader.freezes().unwrap().remove(0) }])).unwrap();
    assert!(reader.changes(Some(changed.next)).unwrap().everything);
}

#[test]
fn every_write_of_a_group_survives_every_fault_on_postgres() {
    for mode in [Mode::Lost, Mode::Kept] {
        let mut fired = Vec::new();
        for step in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let node = Place::new(&fresh_schema().unwrap(), dir.path(), "a");
            let shared = plan(mode, Some(step), 0);
            let (mut stored, mut refused) = (Vec::new(), Vec::new());
            let store = Faulty(node.store(), std::sync::Arc::clone(&shared));
            if let Ok(running) = node.try_open(store, node.options()) {
                for n in 0..2 {
                    let entry = entry("w");
                    let id = entry.event.id;
                    let key = StateOp::WorkspaceKey { workspace: format!("k{n}").parse().unwrap(), wrapped: vec![1] };
                    let public = public("w");
                    let public_id = public.id();
                    let append = Append { entries: vec![public], ..with_ops(entry, vec![key]) };
                    match running.append(append) {
                        Ok(appended) => stored.push((id, appended)),
                        Err(AppendError::Unavailable(_)) => refused.push((id, public_id)),
                        Err(AppendError::Undecided) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            let running = node.try_open(node.store(), LedgerOptions { join: true, ..node.options() }).unwrap();
            let reader = running.ledger.reader();
            for (id, placed) in stored {
                let (event, public) = (&placed.events[0], &placed.entries[0]);
                assert_eq!(reader.event(id).unwrap().map(|row| row.commitment), Some(event.commitment));
                let row = reader.public_entry(public.id).unwrap();
                assert_eq!(row.map(|row| (row.index, row.leaf_hash())), Some((public.index, public.leaf)));
            }
            for (id, public) in refused {
                assert!(reader.event(id).unwrap().is_none() && reader.public_entry(public).unwrap().is_none());
            }
            running.append_n("w", 1);
            drop((reader, running));
            node.assert_sound();
            match shared.lock().unwrap().fired {
                Some(call) => fired.push(call),
                None => break,
            }
        }
        for call in ["open_shard", "apply", "insert", "insert_entry", "set_head", "commit"] {
            assert!(fired.contains(&call), "{call} was never failed as {mode:?}");
        }
    }
}
