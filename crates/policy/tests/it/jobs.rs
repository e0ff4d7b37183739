//! The example sets for common jobs: each loads against its tools without a warning, and each of its cases holds.

use std::fs;
use std::path::Path;

use countersign_domain::Effect;
use countersign_policy::cases::{Case, run};
use countersign_policy::{Policies, SetKind, SourceFile, ToolDescription};
use serde::Deserialize;
use serde_json::Value;

use crate::support::render;

/// The jobs, so that a folder that is lost is missed.
const JOBS: &[&str] = &[
    "artifact-signing",
    "clinical-break-glass",
    "finance-two-approvals",
    "on-call-hours",
    "read-only-assistant",
    "vendor-agent",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool {
    tool: String,
    effect: Effect,
    input_schema: Value,
}

fn files(job: &Path, folder: &str, kind: SetKind) -> Vec<SourceFile> {
    let mut paths: Vec<_> =
        fs::read_dir(job.join(folder)).into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let file = |path: &std::path::PathBuf| SourceFile {
        path: format!("{folder}/{}", path.file_name().expect("a name").to_string_lossy()),
        text: fs::read_to_string(path).expect("a policy"),
        kind,
    };
    paths.iter().map(file).collect()
}

#[test]
fn the_sets_for_common_jobs_do_what_their_cases_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policies");
    for name in JOBS {
        let job = root.join(name);
        let read = |file: &str| fs::read_to_string(job.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
        let tools: Vec<Tool> = serde_json::from_str(&read("tools.json")).expect("tools");
        let tools: Vec<ToolDescription> = tools
            .into_iter()
            .map(|t| ToolDescription {
                tool: t.tool.parse().expect("a tool"),
                effect: t.effect,
                input_schema: t.input_schema,
            })
            .collect();
        let mut sources = files(&job, "access", SetKind::Access);
        sources.extend(files(&job, "approval", SetKind::Approval));
        let policies =
            Policies::load(&sources, &tools).unwrap_or_else(|problems| panic!("{name}: {}", render(&problems)));
        assert_eq!(policies.warnings(), [], "{name}");
        let cases: Vec<Case> = serde_saphyr::from_str(&read("cases.yaml")).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(cases.len() >= 4, "{name}");
        for result in run(&policies, &cases) {
            assert!(
                result.passed,
                "{name}: {}: {:?}\n{}",
                result.name,
                result.differences,
                result.explanation.unwrap_or_default()
            );
        }
    }
}
