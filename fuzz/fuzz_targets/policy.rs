//! Policies with their annotations: loading never panics, in either set; without tools most are refused, with a reason.
#![no_main]

use countersign_policy::{Policies, SetKind, SourceFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for (kind, path) in [(SetKind::Access, "access/fuzz.cedar"), (SetKind::Approval, "approval/fuzz.cedar")] {
        let file = SourceFile { path: path.to_owned(), text: text.to_owned(), kind };
        if let Err(problems) = Policies::load(&[file], &[]) {
            assert!(!problems.is_empty());
            problems.iter().for_each(|problem| drop(problem.to_string()));
        }
    }
});
