//! The tools of `trust` by their commands: what people read, and which exit code it comes to.

use std::process::Output;

use serde_json::json;

use super::stand_in::serve_each;
use super::{Home, expect, parsed};

const POLICY: &str = r#"
@id("all") permit (principal, action in [Action::"trust:sign", Action::"trust:verify", Action::"trust:add_scan", Action::"trust:check_scans",
    Action::"trust:record_review", Action::"trust:deployment_readiness", Action::"trust:detect_anomalies", Action::"trust:compliance_report",
    Action::"trust:notify_team", Action::"trust:verify_package"], resource);
"#;
const APPROVAL: &str = r#"
@id("loud") @approvals("1") @approver_role("boss") @reason("Everybody would hear it.")
permit (principal, action == Action::"trust:notify_team", resource) when { context.input.team == "everybody" };
"#;

/// A node with teams, a list of packages, and a mail server that is not there.
fn home() -> Home {
    let mut home = Home::new();
    let (hook, _) = serve_each(|_, _, _| ("204 No Content", String::new(), String::new()));
    let settings = format!(
        "[trust]\nenabled = true\n[trust.mail]\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\nfrom = \"node@example.com\"\n\
         [trust.packages]\nlists = \"packages\"\n\
         [[trust.teams]]\nname = \"security\"\nwebhook = \"{hook}/hook\"\n\
         [[trust.teams]]\nname = \"everybody\"\nwebhook = \"{hook}/hook\"\n\
         [[trust.teams]]\nname = \"half\"\nwebhook = \"{hook}/hook\"\nmail = [\"ann@example.com\"]\n\
         [[trust.teams]]\nname = \"nobody\"\nmail = [\"ann@example.com\"]\n"
    );
    let config = home.path("countersign.toml");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &settings).unwrap();
    std::fs::create_dir(home.path("packages")).unwrap();
    let list = "deny:\n  - { ecosystem: pypi, name: evil, version: \"*\", reason: it steals }\nallow: []\n";
    std::fs::write(home.path("packages/default.yaml"), list).unwrap();
    // Policies about tools that nobody accepted would keep the others from being in force.
    for starter in [
        "manifests/ads.yaml",
        "policies/access/ads.cedar",
        "policies/access/operators.cedar",
        "policies/approval/ads.cedar",
    ] {
        std::fs::remove_file(home.path(starter)).unwrap();
    }
    std::fs::write(home.path("policies/access/trust.cedar"), POLICY).unwrap();
    std::fs::write(home.path("policies/approval/trust.cedar"), APPROVAL).unwrap();
    std::fs::write(home.path("app.tar.gz"), "an archive").unwrap();
    home.start();
    home
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command, which ends so and says these things.
#[track_caller]
fn said(home: &Home, arguments: &[&str], exit: i32, parts: &[&str]) {
    let output = home.run(&[&["trust"], arguments].concat());
    expect(&output, exit);
    for part in parts {
        assert!(text(&output).contains(part), "{part:?} is not in:\n{}", text(&output));
    }
}

#[test]
fn an_artifact_is_scanned_reviewed_and_found_ready() {
    let home = home();
    said(
        &home,
        &["sign", "app.tar.gz", "--type", "release", "--subject", "app:2.1"],
        0,
        &["signed sha256:", "app:2.1"],
    );
    let sarif = |severity: &str| {
        json!({ "version": "2.1.0", "runs": [{
            "tool": { "driver": { "name": "scanner", "version": "1.0", "rules": [
                { "id": "CVE-2026-1", "properties": { "security-severity": severity } }] } },
            "results": [{ "ruleId": "CVE-2026-1", "level": "error", "message": { "text": "found" } }] }] })
        .to_string()
    };
    std::fs::write(home.path("report.sarif"), sarif("9.8")).unwrap();
    let scan = ["scan", "report.sarif", "--artifact", "app.tar.gz", "--subject", "app:2.1"];
    said(&home, &scan, 0, &["taken sarif 2.1.0 by scanner", "findings   1 critical"]);
    // By name, by file and by policy.
    said(&home, &["scans", "app:2.1"], 3, &["NOT PASSED", "1 critical", "at most 0 are accepted", "counted"]);
    said(&home, &["scans", "app.tar.gz"], 3, &["NOT PASSED"]);
    std::fs::write(home.path("limits.yaml"), "max_critical: 1\nmax_age_seconds: 3600\n").unwrap();
    said(&home, &["scans", "app:2.1", "--policy", "limits.yaml"], 0, &["PASSED"]);
    std::fs::write(home.path("limits.json"), "{ \"max_criticals\": 1 }").unwrap();
    said(&home, &["scans", "app:2.1", "--policy", "limits.json"], 1, &["max_criticals"]);
    let checked = home.run(&["trust", "scans", "app:2.1", "--json"]);
    expect(&checked, 3);
    assert_eq!(parsed(&checked)["passed"], false);

    let review = ["review", "app:2.1", "--team", "security"];
    said(&home, &review, 2, &["--approve", "--needs-changes", "--reject"]);
    said(&home, &[&review[..], &["--approve", "--reject"]].concat(), 2, &["cannot be used with"]);
    let sarah = ["--as", "sarah,security"];
    said(&home, &[&review[..], &["--reject"], &sarah].concat(), 1, &["comment"]);
    let ready = ["readiness", "app:2.1", "--team", "security", "--without", "provenance", "--policy", "limits.yaml"];
    said(&home, &ready, 3, &["NOT READY", "security has not decided"]);
    said(&home, &[&review[..], &["--approve"], &sarah].concat(), 0, &["recorded: approved for security", "sarah"]);
    said(&home, &ready, 0, &["READY", "signature", "passed", "sarah"]);
    said(&home, &[&ready[..], &["--rollback"]].concat(), 3, &["NOT READY", "rollback"]);
    said(&home, &["readiness", "app:2.1", "--without", "luck"], 2, &["transparency_log"]);
    said(&home, &["readiness", "nothing:1"], 1, &["nothing was signed under the name"]);

    said(&home, &["report", "-o", "report.md"], 0, &["report.md: the report is complete"]);
    assert!(std::fs::read_to_string(home.path("report.md")).unwrap().starts_with("# "));
    said(&home, &["report"], 0, &["# "]);
    said(&home, &["anomalies"], 3, &["insufficient_baseline", "too little to compare with", "CHECK"]);
    said(&home, &["anomalies", "--since", "yesterday"], 1, &["neither an RFC 3339 time nor a date"]);
}

#[test]
fn teams_are_told_and_packages_are_looked_up() {
    let home = home();
    said(&home, &["notify", "security", "app:2.1", "--subject", "ready"], 0, &["told security", "webhook  accepted"]);
    let half = ["notify", "half", "app:2.1"];
    said(
        &home,
        &half,
        3,
        &["told in part: half", "webhook  accepted", "mail     failed: no mail was sent to the team"],
    );
    said(&home, &["notify", "nobody", "app:2.1"], 1, &["no mail was sent to the team"]);
    said(&home, &["notify", "ops", "app:2.1"], 1, &["no team \"ops\" is configured"]);
    said(
        &home,
        &["notify", "everybody", "app:2.1"],
        5,
        &["NOT executed", "Everybody would hear it.", "call TOOL … --wait"],
    );
    let pending = home.run(&["trust", "notify", "everybody", "app:2.1", "--json"]);
    expect(&pending, 5);
    assert_eq!(parsed(&pending)["status"], "pending");

    said(&home, &["package", "pypi:evil@1.0"], 3, &["DENIED", "it steals", "pkg:pypi/evil@1.0"]);
    said(&home, &["package", "cargo:serde@1.0.0", "--list-only"], 3, &["UNKNOWN", "not_configured"]);
    said(&home, &["package", "left-pad"], 1, &["begins with its ecosystem"]);
}
