//! A log in memory, keys from fixed seeds, and the receipt of the worked example in `docs/receipt.md`.

use std::convert::Infallible;
use std::path::PathBuf;

use countersign_proof::TrustAnchors;
use countersign_proof::canonical::to_canonical;
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::commitment::{Salt, commit, event_entry};
use countersign_proof::cosignature::cosign_signature;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::{Hash, HashReader, inclusion_proof, leaf_hash, node_hash, root};
use countersign_proof::note::{NoteSigner, SignedNote};
use countersign_proof::receipt::{
    Disclosure, InclusionProof, Label, Receipt, ReceiptBuilder, ReceiptEvent, value_digest,
};
use proptest::prelude::*;
use serde_json::{Value, json};

pub const ORIGIN: &str = "7f3a9c.log.example";
pub const WITNESSES: [&str; 2] = ["witness-one.example", "witness-two.example"];

pub fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

pub fn data(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path("tests/data").join(name)).unwrap()).unwrap()
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Every level of a tree, row by row: the simplest store there is.
pub struct Tree(Vec<Vec<Hash>>);

impl Tree {
    pub fn of<E: AsRef<[u8]>>(entries: &[E]) -> Self {
        let mut rows = vec![entries.iter().map(|e| leaf_hash(e.as_ref())).collect::<Vec<_>>()];
        while rows.last().is_some_and(|row| row.len() > 1) {
            rows.push(rows[rows.len() - 1].chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect());
        }
        Self(rows)
    }

    pub fn leaf(&self, index: usize) -> Hash {
        self.0[0][index]
    }

    pub fn checkpoint(&self, origin: &str, size: u64) -> Checkpoint {
        Checkpoint::new(origin, size, root(self, size).unwrap())
    }
}

impl HashReader for Tree {
    type Error = Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        Ok(self.0[usize::from(level)][usize::try_from(index).unwrap()])
    }
}

/// A key whose seed is the digest of its name: known to everyone, good for examples only.
pub fn log_key(name: &str) -> NoteSigner {
    NoteSigner::from_seed(name, Digest::of_parts(&[b"example key ", name.as_bytes()]).0).unwrap()
}

pub fn witness_key(name: &str) -> NoteSigner {
    log_key(name)
}

pub fn salt(name: &str) -> Salt {
    Digest::of_parts(&[b"example salt ", name.as_bytes()]).0
}

pub fn anchors() -> TrustAnchors {
    let anchors = TrustAnchors::new().with(log_key(ORIGIN).verifier_key());
    WITNESSES.iter().fold(anchors, |anchors, name| anchors.with(witness_key(name).cosignature_key()))
}

/// The events of the worked example: a call that waits, is approved, is dispatched and completes.
pub fn example_events() -> Vec<Value> {
    let input = value_digest(Label::Input, &salt("input"), &example_input()).unwrap();
    let output = value_digest(Label::Output, &salt("output"), &example_output()).unwrap();
    let agent = json!({"kind": "agent", "id": "planner", "issuer": "https://id.example", "on_behalf_of": "ana@example.com", "development": false});
    let person =
        json!({"kind": "person", "id": "ben@example.com", "issuer": "https://id.example", "development": false});
    let tool = json!({"upstream": "ads", "name": "createCampaign", "pin": Digest::of(b"definition").to_string(), "effect": "write"});
    let call = "01937b6e-0000-7000-8000-00000000ca11";
    let id = |n: u64| format!("01937b6e-0000-7000-8000-{n:012}");
    let event = |seq: u64, kind: &str, parent: Option<u64>, who: &Value| {
        let mut event = json!({
            "v": 1, "type": kind, "id": id(seq), "workspace": "acme", "seq": seq, "prev": null,
            "time": 1_795_219_200_000_u64 + seq * 250, "call": call, "principal": who, "tool": tool,
        });
        if let Some(parent) = parent {
            event["parent"] = id(parent).into();
        }
        event
    };
    let mut events = vec![
        event(1, "call.pending", None, &agent),
        event(2, "approval.granted", Some(1), &person),
        event(3, "call.intent", Some(2), &agent),
        event(4, "call.completed", Some(3), &agent),
    ];
    events[0]["input_digest"] = input.to_string().into();
    events[3]["outcome"] = json!({"status": "ok", "output_digest": output.to_string(), "duration_ms": 84});
    chain(&mut events);
    events
}

pub fn example_input() -> Value {
    json!({"name": "Spring", "budget_micros": 250_000_000, "note": "café €"})
}

pub fn example_output() -> Value {
    json!({"campaign": "c-1029", "state": "ACTIVE"})
}

/// Sets every `prev` to the commitment of the event before.
pub fn chain(events: &mut [Value]) {
    let mut prev = Value::Null;
    for event in events {
        event["prev"] = prev;
        prev = commitment_of(event).to_string().into();
    }
}

pub fn commitment_of(event: &Value) -> Digest {
    commit(&salt(event["id"].as_str().unwrap()), &to_canonical(event).unwrap())
}

/// A receipt for the last of the events, in a log that also holds two entries of others.
pub fn receipt_of(events: &[Value]) -> Receipt {
    receipt_in(ORIGIN, events, &WITNESSES).build().unwrap()
}

pub fn receipt_in(origin: &str, events: &[Value], witnesses: &[&str]) -> ReceiptBuilder {
    let mut entries = vec![event_entry(&Digest::of(b"somebody else's event")); 2];
    entries.extend(events.iter().map(|event| event_entry(&commitment_of(event))));
    let tree = Tree::of(&entries);
    let size = entries.len() as u64;
    let checkpoint = tree.checkpoint(origin, size);
    let mut note = SignedNote::parse(checkpoint.sign(&log_key(origin)).unwrap()).unwrap();
    for (i, name) in witnesses.iter().enumerate() {
        let time = 1_795_219_260 + i as u64;
        note.add(cosign_signature(note.text(), &witness_key(name), time).unwrap()).unwrap();
    }
    let subject = events.last().unwrap()["id"].as_str().unwrap();
    let mut builder = ReceiptBuilder::new(subject).checkpoint(note.to_string()).key(log_key(origin).verifier_key());
    for (i, event) in events.iter().enumerate() {
        let index = i as u64 + 2;
        let proof = InclusionProof { size, hashes: inclusion_proof(&tree, index, size).unwrap() };
        let salt = salt(event["id"].as_str().unwrap());
        builder = builder.event(ReceiptEvent::new(event.clone(), salt, origin, index, proof).unwrap());
    }
    builder
}

/// The receipt of `docs/receipt.md`, as checked in under `tests/data/receipt.json`.
pub fn example_receipt() -> Receipt {
    let events = example_events();
    let id = |n: usize| events[n]["id"].as_str().unwrap();
    receipt_in(ORIGIN, &events, &WITNESSES)
        .disclosure(Disclosure::new(id(0), Label::Input, salt("input"), example_input()))
        .disclosure(Disclosure::new(id(3), Label::Output, salt("output"), example_output()))
        .build()
        .unwrap()
}

/// JSON values within the bounds of strict parsing.
pub fn json_value() -> impl Strategy<Value = Value> {
    let safe = (1i64 << 53) - 1;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-safe..=safe).prop_map(Value::from),
        any::<f64>().prop_filter("safe", move |d| d.abs() <= safe as f64).prop_map(Value::from),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}
