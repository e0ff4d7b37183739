//! What operators install beside the binary: client files, completions, manual pages, the service.

use super::{Home, clean, expect, parsed};

#[test]
fn a_clients_file_keeps_what_is_in_it_and_never_holds_a_token() {
    let home = Home::new();
    let file = home.path("mcp.json");
    let before = "{\n  // my own servers\n  \"servers\": {\n    \"mine\": { \"url\": \"http://x\" }, // keep\n  }\n}\n";
    std::fs::write(&file, before).unwrap();
    let write = ["config", "client", "vscode", "--write", "--file", "mcp.json"];
    assert_eq!(home.json(&write)["changed"], true);
    let after = std::fs::read_to_string(&file).unwrap();
    for kept in ["// my own servers", "\"mine\": { \"url\": \"http://x\" }, // keep"] {
        assert!(after.contains(kept), "{after}");
    }
    assert!(after.contains("/mcp\"") && after.contains("Bearer ${input:countersign-token}"), "{after}");
    assert_eq!(std::fs::read_to_string(home.path("mcp.json.before-countersign")).unwrap(), before);
    assert_eq!(home.json(&write)["changed"], false);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), after);

    std::fs::write(&file, "{ \"servers\": [").unwrap();
    expect(&home.run(&write), 1);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{ \"servers\": [", "a broken file is left alone");
}

#[test]
fn every_client_gets_the_form_that_it_reads() {
    let home = Home::new();
    for (client, place) in [
        ("vscode", "/servers/countersign/url"),
        ("cursor", "/mcpServers/countersign/headers/Authorization"),
        ("claude-code", "/mcpServers/countersign/type"),
        ("zed", "/context_servers/countersign/command"),
        ("claude-desktop", "/mcpServers/countersign/args/0"),
    ] {
        let output = home.run(&["config", "client", client, "--upstream", "ads"]);
        expect(&output, 0);
        let document = parsed(&output);
        assert!(document.pointer(place).is_some_and(|value| value.is_string()), "{client}: {document}");
        assert!(document.to_string().contains("ads"), "{client}: {document}");
        assert!(!document.to_string().contains("eyJ"), "{client} must not get a token in a file: {document}");
    }
}

#[test]
fn shells_and_manuals_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = clean().args(["completions", shell]).output().unwrap();
        expect(&output, 0);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("doctor") && script.contains("approvals"), "{shell}");
        if shell == "bash" {
            let checked = std::process::Command::new("bash").args(["-n", "-c", &script]).status().unwrap();
            assert!(checked.success());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    expect(&clean().args(["man", "--out"]).arg(dir.path()).output().unwrap(), 0);
    for page in ["countersign.1", "countersign-up.1", "countersign-approvals-approve.1"] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

/// Where systemd is there, it reads the unit; the directives that this version does not know would be said here.
#[test]
fn the_service_unit_is_one() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd/countersign.service");
    let text = std::fs::read_to_string(unit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // The verifier wants the program to be there.
    let text = text.replace("/usr/local/bin/countersign", super::BINARY);
    std::fs::write(dir.path().join("countersign.service"), text).unwrap();
    let verify = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(dir.path().join("countersign.service"))
        .output();
    let Ok(output) = verify else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("countersign.service"), "{said}");
}
