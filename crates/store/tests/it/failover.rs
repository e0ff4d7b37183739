//! A primary that is lost and a standby that is promoted in its place, by streaming replication and `pg_promote`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_ledger::{AppendError, LedgerOptions, OpenError, StoreError};
use countersign_testkit::postgres::{Postgres, query};
use countersign_testkit::proxy::Proxy;

use crate::nodes::{Place, eventually};
use crate::support::{Running, entry, one};

const HEAD: &str = "SELECT shard, size, encode(root, 'hex') FROM head";

/// A server, and an address that can be led to another one.
fn server(name: &str) -> (Postgres, Proxy, String, std::path::PathBuf) {
    let place = std::env::temp_dir().join(format!("countersign-{name}-{}", std::process::id()));
    let primary = Postgres::create(&place).unwrap();
    let proxy = Proxy::start(primary.port()).unwrap();
    let url = format!("postgres://countersign@127.0.0.1:{}/postgres", proxy.port());
    (primary, proxy, url, place)
}

fn goes_on(running: &Running) {
    eventually("appends work again", || match running.append(one(entry("w"))) {
        Ok(_) => true,
        Err(AppendError::Unavailable(_) | AppendError::Undecided) => false,
        Err(error) => panic!("{error}"),
    });
}

#[test]
fn a_stale_standby_that_is_promoted_is_not_signed_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut primary, proxy, url, place) = server("stale-standby");
    let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
    let (first, second) = (a.open(), b.join());
    first.append_n("w", 3);
    second.append_n("w", 2);
    let mut standby = primary.standby("standby").unwrap();
    standby.stop_in_order().unwrap();
    // Acknowledged, and never heard of by the standby.
    first.append_n("w", 4);
    eventually("the idle node follows", || second.ledger.head().size == 10);
    primary.stop_at_once().unwrap();
    standby.start().unwrap();
    proxy.lead_to(standby.port());
    // As long as it is a standby nothing can be written, and that is all.
    let refused = first.append(one(entry("w")));
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    standby.promote().unwrap();
    let before = query(&standby.url(), HEAD).unwrap();
    assert!(before.starts_with("0|6|"), "{before}");
    for running in [&second, &first] {
        eventually("it is refused as stale", || {
            let refused = running.append(one(entry("w")));
            assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
            running.ledger.stats().stale
        });
        assert_eq!(running.ledger.head().size, 10, "what was signed is still what is shown");
    }
    drop(second);
    let error = b.try_open(b.store(), b.options()).err().expect("refused");
    assert!(matches!(error, OpenError::Stale(_)), "{error}");
    let c = Place::new(&url, dir.path(), "c");
    let error = c.try_open(c.store(), LedgerOptions { join: true, ..c.options() }).err().expect("refused");
    assert!(matches!(error, OpenError::Store(StoreError::Stale(_))), "{error}");
    assert_eq!(query(&standby.url(), HEAD).unwrap(), before, "nobody has signed on it");
    // The primary was not lost after all.
    standby.stop_at_once().unwrap();
    primary.start().unwrap();
    proxy.lead_to(primary.port());
    let second = b.open();
    goes_on(&first);
    goes_on(&second);
    drop((first, second));
    a.assert_sound();
    b.assert_sound();
    drop((primary, standby));
    std::fs::remove_dir_all(&place).unwrap();
}

#[test]
fn a_synchronous_standby_that_is_promoted_has_everything_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut primary, proxy, url, place) = server("sync-standby");
    let (a, b) = (Place::new(&url, dir.path(), "a"), Place::new(&url, dir.path(), "b"));
    let (first, second) = (a.open(), b.join());
    first.append_n("w", 3);
    let standby = primary.standby("standby").unwrap();
    primary.wait_for_standby().unwrap();
    // The primary dies under writes of both nodes.
    let stop = AtomicBool::new(false);
    let mut acknowledged = Vec::new();
    std::thread::scope(|scope| {
        let write = |running: &Running| {
            let mut stored = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                match running.append(one(entry("w"))) {
                    Ok(appended) => stored.push(appended.events[0].clone()),
                    Err(AppendError::Unavailable(_) | AppendError::Undecided) => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            stored
        };
        let threads = [&first, &second].map(|running| scope.spawn(move || write(running)));
        eventually("both write", || first.ledger.stats().events > 30 && second.ledger.stats().events > 30);
        primary.stop_at_once().unwrap();
        standby.promote().unwrap();
        proxy.lead_to(standby.port());
        let before = [&first, &second].map(|running| running.ledger.stats().events);
        eventually("both write on the promoted standby", || {
            [&first, &second].iter().zip(before).all(|(running, before)| running.ledger.stats().events > before + 10)
        });
        stop.store(true, Ordering::SeqCst);
        acknowledged.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    assert_eq!(query(&standby.url(), "SELECT pg_is_in_recovery()").unwrap(), "f");
    let reader = first.ledger.reader();
    for placed in &acknowledged {
        let found = reader.event(placed.id).unwrap().map(|row| (row.index, row.commitment));
        assert_eq!(found, Some((placed.index, placed.commitment)), "acknowledged, so it is there and where it was");
    }
    assert_eq!(first.opened.shard, 0);
    drop((reader, first, second));
    a.assert_sound();
    assert_eq!(query(&standby.url(), "SELECT count(*) FROM shard").unwrap(), "1", "one log, no fork");
    drop((primary, standby));
    std::fs::remove_dir_all(&place).unwrap();
}
