//! Files of policy cases (YAML): read or refused, and what is read is run.
#![no_main]

use std::sync::LazyLock;

use countersign_policy::cases::{Case, run};
use countersign_policy::{Policies, SetKind, SourceFile};
use libfuzzer_sys::fuzz_target;

static POLICIES: LazyLock<Policies> = LazyLock::new(|| {
    let text = "@id(\"all\") permit (principal, action, resource);".to_owned();
    Policies::load(&[SourceFile { path: "access/a.cedar".into(), text, kind: SetKind::Access }], &[]).expect("they load")
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(cases) = serde_saphyr::from_str::<Vec<Case>>(text) else { return };
    let results = run(&POLICIES, &cases);
    assert_eq!(results.len(), cases.len());
    assert!(results.iter().all(|result| result.passed == result.differences.is_empty()));
});
