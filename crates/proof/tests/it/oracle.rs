//! An independent verifier, written in Python from `docs/receipt.md` alone, must agree with this crate.

use std::io::Write as _;
use std::process::{Command, Stdio};

use countersign_proof::receipt::verify;
use countersign_proof::verify_file;

use crate::support::*;

/// Runs the Python verifier on a list of files in one process; each answer is `valid`, `unanchored` or `invalid`.
/// `None` where Python or its `cryptography` package is absent.
fn ask_python(files: &[Vec<u8>]) -> Option<Vec<String>> {
    let probe = Command::new("python3").args(["-c", "import cryptography"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("COUNTERSIGN_REQUIRE_PYTHON").is_none(), "python3 with cryptography is required");
        eprintln!("skipped: python3 with the package cryptography is not there");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(path("tests/oracle/verify_receipt.py")).arg("--batch").arg("--quorum").arg("1");
    for key in anchors().logs.iter().chain(&anchors().witnesses) {
        command.arg("--key").arg(key.to_string());
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let files = files.to_vec();
    let writer = std::thread::spawn(move || {
        for file in files {
            stdin.write_all(&u32::try_from(file.len()).unwrap().to_be_bytes()).unwrap();
            stdin.write_all(&file).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn a_verifier_written_from_the_document_agrees() {
    let good = example_receipt().to_bytes().unwrap();
    let mut files = vec![good.clone(), br#"{"format":"countersign-receipt/v1"}"#.to_vec(), b"{".to_vec()];
    // One flipped bit in every seventh byte, and every kind of structural damage that a slice makes.
    for at in (0..good.len()).step_by(7) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        files.push(flipped);
    }
    for end in (0..good.len()).step_by(501) {
        files.push(good[..end].to_vec());
    }
    let Some(answers) = ask_python(&files) else { return };
    assert_eq!(answers.len(), files.len());
    assert_eq!(answers[0], "valid");
    let anchors = anchors().with_quorum(1);
    for (file, answer) in files.iter().zip(&answers) {
        let ours = serde_json::to_value(verify(file, &anchors).verdict).unwrap();
        assert_eq!(ours, answer.as_str(), "{}\n{}", verify_file(file, &anchors), String::from_utf8_lossy(file));
    }
}
