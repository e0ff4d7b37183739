//! The tools of `trust` by their commands: what people read, and which exit code it comes to.

use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::stand_in::serve_each;
use super::{Home, clean, expect, parsed};

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

#[test]
fn the_trusted_root_is_exported() {
    let home = home();
    for (option, member) in [(None, "certificateAuthorities"), (Some("--config"), "trustedRoot")] {
        let output = home.run(&[&["trust-root", "export"][..], option.as_slice()].concat());
        expect(&output, 0);
        assert!(parsed(&output)[member].is_object() || parsed(&output)[member].is_array(), "{}", text(&output));
        let new = output.stdout;
        // The file has the node's bytes; a line ends on standard output.
        expect(&home.run(&[&["trust-root", "export", "-o", "exported.json"][..], option.as_slice()].concat()), 0);
        assert_eq!(new.strip_suffix(b"\n"), Some(std::fs::read(home.path("exported.json")).unwrap().as_slice()));
    }
    // Without a node, and without a command.
    expect(&clean().args(["trust-root", "export", "--url", "http://127.0.0.1:1"]).output().unwrap(), 6);
    let bare = clean().arg("trust-root").output().unwrap();
    expect(&bare, 2);
    assert!(text(&bare).contains("export"), "{}", text(&bare));
}

#[test]
fn a_statement_from_a_file_is_signed() {
    let home = home();
    let predicate = json!({ "buildDefinition": { "buildType": "https://example.org/build" } });
    let stated = json!({ "predicate_type": "https://slsa.dev/provenance/v1", "predicate": predicate });
    std::fs::write(home.path("provenance.json"), stated.to_string()).unwrap();
    let sign = ["sign", "app.tar.gz", "--type", "release", "--subject", "app:2.1", "--statement"];
    let to_file = [&sign[..], &["provenance.json", "-o", "stated.sigstore.json"]].concat();
    said(&home, &to_file, 0, &["signed sha256:", "app:2.1"]);

    let bundle = std::fs::read(home.path("stated.sigstore.json")).unwrap();
    let bundle: Value = serde_json::from_slice(&bundle).unwrap();
    let payload = STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(
        (&statement["predicateType"], &statement["predicate"], &statement["subject"][0]["name"]),
        (&stated["predicate_type"], &predicate, &json!("app:2.1"))
    );
    said(&home, &["verify", "app.tar.gz"], 0, &["VALID"]);

    std::fs::write(home.path("whole.json"), statement.to_string()).unwrap();
    said(&home, &[&sign[..], &["whole.json"]].concat(), 1, &["whole.json has \"", "the node adds the rest"]);
    said(&home, &[&sign[..], &["nothing.json"]].concat(), 1, &["nothing.json"]);
}

#[test]
fn an_image_is_signed_in_a_registry_of_the_nodes() {
    let home = home();
    let sign = ["sign", "--type", "container_image"];
    said(&home, &sign, 2, &["<ARTIFACT|--image <REFERENCE>>"]);
    let of = |image: &'static str| [&sign[..], &["--image", image]].concat();
    said(&home, &of("https://registry.example.org/app:2.1"), 1, &["leave the scheme out"]);
    said(
        &home,
        &of("registry.example.org/app:2.1"),
        1,
        &["registry.example.org is not one of those that are configured"],
    );
    let both = [&of("registry.example.org/app:2.1")[..], &["app:2.1"]].concat();
    said(&home, &both, 2, &["app:2.1 is neither a file that can be read nor a sha256: digest"]);
}

/// The node is a stand-in, whose registry answers or does not.
#[test]
fn of_an_image_it_is_told_where_the_bundle_is() {
    let (node, log) = serve_each(|_, body, _| {
        let image = match body.contains("app:2.1") {
            true => json!({ "reference": "registry.example.org/app:2.1", "pushed": true, "referrer": "sha256:beef" }),
            false => json!({ "reference": "registry.example.org/app:2.2", "pushed": false, "problem": "it is away" }),
        };
        ("200 OK", String::new(), json!({ "artifact": "sha256:cafe", "image": image }).to_string())
    });
    let sign = |image: &str| {
        let given = ["trust", "sign", "--type", "container_image", "--image", image, "--url", &node, "--token", "x"];
        let output = clean().args(given).output().unwrap();
        expect(&output, 0);
        text(&output)
    };
    let pushed = sign("registry.example.org/app:2.1");
    for part in ["signed sha256:cafe", "image      registry.example.org/app:2.1", "pushed as  sha256:beef"] {
        assert!(pushed.contains(part), "{part:?} is not in:\n{pushed}");
    }
    assert!(!pushed.contains("not pushed"), "{pushed}");
    let kept_back = sign("registry.example.org/app:2.2");
    assert!(kept_back.contains("the bundle was not pushed beside it: it is away"), "{kept_back}");

    let (head, body) = log.lock().unwrap()[0].clone();
    assert!(head.starts_with("POST /v1/sign "), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({ "artifact_type": "container_image", "image": "registry.example.org/app:2.1" }));
}
