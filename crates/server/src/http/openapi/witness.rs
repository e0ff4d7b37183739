//! Witnessing, described.

use serde_json::{Value, json};

use super::{Operation, any_object, item};

pub(super) fn witness() -> Vec<(String, Value)> {
    let text = || json!({ "type": "string" });
    let add = Operation::new("log", "addCheckpoint", "Have another log's checkpoint cosigned (C2SP tlog-witness)")
        .public()
        .body_as("text/plain", json!({ "type": "string", "description": "old size, consistency proof, checkpoint." }))
        .answers_as("200", "The cosignature's line.", "text/plain", text())
        .answers_as("400", "Not such a request.", "text/plain", text())
        .answers_as("403", "The checkpoint is not signed by a key that is known for its log.", "text/plain", text())
        .answers_as("404", "The log is not known here.", "text/plain", text())
        .answers_as("409", "The size of the latest cosigned checkpoint.", "text/x.tlog.size", text())
        .answers_as("422", "The proof does not hold.", "text/plain", text());
    let status = Operation::new("administration", "getWitness", "Who cosigned this log, and what this node cosigned")
        .answers("200", "How witnessing stands.", any_object());
    vec![item("/add-checkpoint", vec![("post", add)]), item("/admin/witness", vec![("get", status)])]
}
