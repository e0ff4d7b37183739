//! The policy set in force and the catalog that it is made for.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use countersign_domain::Effect;
use countersign_gate::policies::{PolicyStore, Reloaded};
use countersign_policy::ToolDescription;
use serde_json::json;

const SET: &str = r#"@id("clerks") permit (principal in Role::"clerk", action == Action::"ads:list", resource);"#;

fn ads_list() -> ToolDescription {
    ToolDescription {
        tool: "ads:list".parse().expect("a name"),
        effect: Effect::Read,
        input_schema: json!({"type": "object", "properties": {}}),
    }
}

#[test]
fn who_read_the_catalog_first_does_not_put_an_older_set_over_a_newer_one() {
    let directory = tempfile::tempdir().expect("the test's own");
    std::fs::create_dir(directory.path().join("access")).expect("the test's own");
    std::fs::write(directory.path().join("access/a.cedar"), SET).expect("the test's own");
    let store = PolicyStore::new(directory.path().to_owned());
    let (reading, has_read) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    thread::scope(|scope| {
        let store = &store;
        let earlier = scope.spawn(move || {
            store.reload(|| {
                reading.send(()).expect("the test's own");
                may_go_on.recv().expect("the test's own");
                // Before the tool was accepted.
                (1, Vec::new())
            })
        });
        has_read.recv().expect("the test's own");
        let later = scope.spawn(move || store.reload(|| (2, vec![ads_list()])));
        // Long enough for the later one to finish if nothing kept it waiting; too short a pause would only hide that.
        thread::sleep(Duration::from_millis(200));
        go_on.send(()).expect("the test's own");
        assert!(matches!(earlier.join().expect("the test's own"), Reloaded::Refused(_)));
        assert!(matches!(later.join().expect("the test's own"), Reloaded::InForce(_)));
    });
    assert_eq!((store.catalog(), store.problems()), (2, Vec::new()));
}
