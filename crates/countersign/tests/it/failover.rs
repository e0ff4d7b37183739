//! A database that lost what was signed, as an operator meets it at the command line.

use countersign_testkit::postgres::Postgres;

use super::{Home, expect, parsed};

#[test]
fn a_database_that_is_lost_for_good_is_left_behind_by_a_new_shard() {
    let place = std::env::temp_dir().join(format!("countersign-reopen-{}", std::process::id()));
    let mut server = Postgres::create(&place).unwrap();
    let mut home = Home::new();
    let config = home.path("countersign.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("database_url = \"{}\"\n{text}", server.url())).unwrap();
    home.start();
    home.stop();
    server.stop_in_order().unwrap();
    let old = server.copy("old").unwrap();
    server.start().unwrap();
    // These are lost with the newer database.
    home.start();
    home.accept_tools();
    home.stop();
    server.stop_in_order().unwrap();
    server.replace_data(old);
    server.start().unwrap();

    let refused = home.run(&["up", "--listen", &format!("127.0.0.1:{}", home.port)]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("behind what was signed"), "{said}");
    assert!(said.contains("log reopen"), "it says what to do: {said}");
    // Nobody is asked, so nothing is done.
    expect(&home.run(&["log", "reopen"]), 1);
    let opened = home.run(&["log", "reopen", "--yes", "--json"]);
    expect(&opened, 0);
    let opened = parsed(&opened);
    assert_eq!((opened["reason"].as_str(), opened["shard"].as_u64()), (Some("restored"), Some(1)), "{opened}");
    let again = home.json(&["log", "reopen", "--yes"]);
    assert_eq!((again["reason"].as_str(), &again["origin"]), (None, &opened["origin"]), "once is enough");
    home.start();
    assert_eq!(home.json(&["log", "fsck"])["ok"], true);
    home.accept_tools();
    home.stop();
    drop(server);
    std::fs::remove_dir_all(&place).unwrap();
}
