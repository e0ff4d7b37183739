#!/usr/bin/env python3
"""A receipt verifier written from docs/receipt.md alone, as a second opinion for the tests of crates/proof.

Standard library, and `cryptography` for Ed25519. Prints `valid`, `unanchored` or `invalid: <reason>` for each file.

    verify_receipt.py --key KEY... [--quorum M] FILE...
    verify_receipt.py --key KEY... [--quorum M] --batch    # 4-byte big-endian length + file, repeated, on stdin
"""

import argparse
import base64
import hashlib
import json
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SAFE = 2**53 - 1


class Invalid(Exception):
    """The receipt is invalid, for the given reason."""


def demand(condition, reason):
    if not condition:
        raise Invalid(reason)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# Section 1: canonical JSON


def parse_json(data):
    demand(len(data) <= 4 * 1024 * 1024, "too_large")

    def members(pairs):
        names = [name for name, _ in pairs]
        demand(len(names) == len(set(names)), "json: duplicate name")
        return dict(pairs)

    def integer(text):
        demand(len(text) < 20 and abs(int(text)) <= SAFE, "json: number")
        return int(text)

    def fraction(text):
        number = float(text)
        underflows = number == 0 and re.search("[1-9]", re.split("[eE]", text)[0])
        demand(abs(number) <= SAFE and not underflows, "json: number")
        return number

    def constant(_):
        raise Invalid("json: not a number")

    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=members, parse_int=integer, parse_float=fraction, parse_constant=constant
        )
    except (ValueError, RecursionError) as error:
        raise Invalid(f"json: {error}") from error
    check_tree(value, 80)
    return value


def check_tree(value, depth):
    if isinstance(value, str):
        demand(not re.search("[\ud800-\udfff]", value), "json: unpaired surrogate")
    if isinstance(value, (dict, list)):
        demand(depth > 0, "json: too deep")
    if isinstance(value, dict):
        for name, member in value.items():
            check_tree(name, depth)
            check_tree(member, depth - 1)
    if isinstance(value, list):
        for item in value:
            check_tree(item, depth - 1)


def canonical(value):
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return ecmascript_number(value)
    if isinstance(value, str):
        return canonical_string(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    names = sorted(value, key=lambda name: name.encode("utf-16-be"))
    return "{" + ",".join(canonical_string(name) + ":" + canonical(value[name]) for name in names) + "}"


def canonical_string(text):
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    out = (short.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text)
    return '"' + "".join(out) + '"'


def ecmascript_number(number):
    """Python's repr finds the same shortest digits; only the layout differs (ECMA-262, Number::toString)."""
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent or 0)
    digits = whole + fraction
    point -= len(digits) - len(digits.lstrip("0"))
    digits = digits.lstrip("0").rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    tail = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + digits[0] + ("." + digits[1:] if count > 1 else "") + tail


def canonical_bytes(value):
    return canonical(value).encode("utf-8")


# Section 2: shapes


def is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def b64(text, reason):
    demand(isinstance(text, str) and text.isascii(), reason)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Invalid(reason) from error
    demand(base64.b64encode(data).decode() == text, reason)
    return data


def b64_32(text):
    data = b64(text, "shape: base64")
    demand(len(data) == 32, "shape: 32 bytes")
    return data


def digest(text, reason):
    demand(isinstance(text, str) and re.fullmatch("sha256:[0-9a-f]{64}", text), reason)
    return bytes.fromhex(text[7:])


def array(value, limit, what):
    demand(isinstance(value, list) and len(value) <= limit, f"shape: {what}")
    return value


def strings(value, limit, what):
    demand(all(isinstance(item, str) for item in array(value, limit, what)), f"shape: {what}")
    return value


def read_receipt(data):
    receipt = parse_json(data)
    demand(isinstance(receipt, dict) and receipt.get("format") == "countersign-receipt/v1", "format")
    demand(isinstance(receipt.get("subject"), str), "shape: subject")
    demand(array(receipt.get("events"), 64, "events"), "shape: no events")
    for entry in receipt["events"]:
        demand(isinstance(entry, dict) and "event" in entry, "shape: entry")
        entry["salt"] = b64_32(entry.get("salt"))
        entry["commitment"] = digest(entry.get("commitment"), "shape: commitment")
        demand(isinstance(entry.get("log"), str), "shape: log")
        demand(is_integer(entry.get("index")) and entry["index"] >= 0, "shape: index")
        proof = entry.get("proof")
        demand(isinstance(proof, dict) and is_integer(proof.get("size")) and proof["size"] >= 0, "shape: proof")
        proof["hashes"] = [b64_32(text) for text in array(proof.get("hashes"), 65, "hashes")]
    strings(receipt.get("checkpoints"), 16, "checkpoints")
    strings(receipt.get("keys", []), 64, "keys")
    strings(receipt.get("erased", []), 64, "erased")
    for disclosure in array(receipt.get("disclosures", []), 128, "disclosures"):
        demand(isinstance(disclosure, dict) and "value" in disclosure, "shape: disclosure")
        demand(isinstance(disclosure.get("event"), str), "shape: disclosure")
        demand(disclosure.get("label") in ("input", "output"), "shape: label")
        disclosure["salt"] = b64_32(disclosure.get("salt"))
    return receipt


# Section 3: events


def check_event(event):
    bad = "event_shape"
    demand(isinstance(event, dict), bad)
    demand(is_integer(event.get("v")) and event["v"] == 1, bad)
    for name in ("type", "id", "workspace"):
        demand(isinstance(event.get(name), str), bad)
    demand(event["id"] != "", bad)
    demand(is_integer(event.get("seq")) and event["seq"] >= 1, bad)
    demand(is_integer(event.get("time")), bad)
    if event.get("prev") is not None:
        digest(event["prev"], bad)
    for name in ("parent", "call", "input_digest"):
        demand(event.get(name) is None or isinstance(event[name], str), bad)
    for name in ("principal", "outcome"):
        demand(event.get(name) is None or isinstance(event[name], dict), bad)
    if event.get("principal") is not None:
        demand(isinstance(event["principal"].get("development", False), bool), bad)
    if event.get("outcome") is not None:
        output = event["outcome"].get("output_digest")
        demand(output is None or isinstance(output, str), bad)


# Section 4: commitment and inclusion


def commitment_of(entry):
    return sha256(b"countersign/event/v1\0", entry["salt"], canonical_bytes(entry["event"]))


def check_inclusion(entry, root):
    fn, sn = entry["index"], entry["proof"]["size"] - 1
    demand(fn <= sn, "inclusion_mismatch")
    r = sha256(b"\0", b"\1", entry["commitment"])
    for p in entry["proof"]["hashes"]:
        demand(sn != 0, "inclusion_mismatch")
        if fn % 2 == 1 or fn == sn:
            r = sha256(b"\1", p, r)
            while fn % 2 == 0 and fn != 0:
                fn, sn = fn // 2, sn // 2
        else:
            r = sha256(b"\1", r, p)
        fn, sn = fn // 2, sn // 2
    demand(sn == 0 and r == root, "inclusion_mismatch")


# Section 5: checkpoints


def key_name_is_good(name):
    return name != "" and not re.search(r"[\s+\x00-\x1f\x7f-\x9f]", name)


class Key:
    def __init__(self, text):
        self.name, key_id, encoded = text.split("+", 2)
        payload = base64.b64decode(encoded, validate=True)
        self.type, self.public = payload[0], payload[1:]
        self.id = sha256(self.name.encode(), b"\n", payload)[:4]
        if self.type not in (1, 4) or len(self.public) != 32 or self.id.hex() != key_id:
            raise SystemExit(f"not a key: {text}")

    def verifies(self, message, signature):
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def read_note(note):
    bad = "checkpoint_malformed"
    demand(len(note.encode()) <= 256 * 1024, bad)
    demand(not re.search(r"[\x00-\x09\x0b-\x1f]", note), bad)
    text, blank, lines = note.rpartition("\n\n")
    demand(blank and lines.endswith("\n"), bad)
    signatures = []
    for line in lines[:-1].split("\n"):
        parts = line.split(" ")
        demand(len(parts) == 3 and parts[0] == "—" and key_name_is_good(parts[1]), bad)
        data = b64(parts[2], bad)
        demand(len(data) > 4, bad)
        signatures.append((parts[1], data[:4], data[4:]))
    demand(len(signatures) <= 64, bad)
    return text + "\n", signatures


def read_tree_head(text):
    bad = "checkpoint_malformed"
    lines = text[:-1].split("\n")
    demand(len(lines) >= 3 and all(lines), bad)
    origin, size, root = lines[:3]
    demand(re.fullmatch("0|[1-9][0-9]*", size, re.ASCII) and int(size) < 2**64, bad)
    root = b64(root, bad)
    demand(len(root) == 32, bad)
    demand(size != "0" or root == sha256(), bad)
    return origin, int(size), root


def check_signatures(note, origin, keys, quorum):
    """Returns whether the log's key was brought."""
    text, signatures = note
    log_keys = [key for key in keys if key.type == 1 and key.name == origin]
    witnesses = [key for key in keys if key.type == 4]
    signed, parties = False, {key.public for key in log_keys}
    own = len(parties)
    for name, key_id, signature in signatures:
        for key in log_keys:
            if (key.name, key.id) == (name, key_id):
                demand(key.verifies(text.encode(), signature), "signature_wrong")
                signed = True
        for key in witnesses:
            if (key.name, key.id) == (name, key_id):
                demand(len(signature) == 72, "cosignature_wrong")
                (time,) = struct.unpack(">Q", signature[:8])
                message = f"cosignature/v1\ntime {time}\n{text}".encode()
                demand(time < 2**63 and key.verifies(message, signature[8:]), "cosignature_wrong")
                parties.add(key.public)
    demand(signed or not log_keys, "signature_missing")
    demand(len(parties) - own >= quorum, "quorum_missed")
    return bool(log_keys)


# Sections 6 to 8


def check_links(receipt, events):
    by_id = {event["id"]: event for event in events}
    demand(len(by_id) == len(events), "event_duplicate")
    demand(receipt["subject"] in by_id, "subject_missing")
    subject = by_id[receipt["subject"]]
    for event in events:
        demand(event["workspace"] == subject["workspace"], "workspace_mismatch")
        parent = event.get("parent")
        if parent in by_id:
            demand(by_id[parent]["seq"] < event["seq"], "parent_order")
        elif parent is not None:
            demand(parent in receipt.get("erased", []), "parent_missing")
    ancestors, event = set(), subject
    while event is not None:
        ancestors.add(event["id"])
        event = by_id.get(event.get("parent"))
    for event in events:
        same_call = event.get("call") is not None and event["call"] == subject.get("call")
        demand(event["id"] in ancestors or same_call, "call_mismatch")


def check_sequence(entries):
    entries = sorted(entries, key=lambda entry: entry["event"]["seq"])
    for entry in entries:
        event = entry["event"]
        demand((event.get("prev") is None) == (event["seq"] == 1), "sequence_broken")
    for earlier, later in zip(entries, entries[1:]):
        seq, next_seq = earlier["event"]["seq"], later["event"]["seq"]
        demand(seq != next_seq, "sequence_order")
        demand(earlier["log"] != later["log"] or earlier["index"] < later["index"], "sequence_order")
        if next_seq == seq + 1:
            demand(later["event"]["prev"] == "sha256:" + earlier["commitment"].hex(), "sequence_broken")


def check_disclosure(disclosure, events):
    event = next((event for event in events if event["id"] == disclosure["event"]), {})
    label = disclosure["label"]
    expected = event.get("input_digest") if label == "input" else (event.get("outcome") or {}).get("output_digest")
    demand(expected is not None, "disclosure_unknown")
    tag = b"countersign/salted/v1\0" + bytes([len(label)]) + label.encode()
    computed = sha256(tag, disclosure["salt"], canonical_bytes(disclosure["value"]))
    demand(expected == "sha256:" + computed.hex(), "disclosure_mismatch")


# Section 9


def verify(data, keys, quorum):
    receipt = read_receipt(data)
    entries = receipt["events"]
    events = [entry["event"] for entry in entries]
    for event in events:
        check_event(event)
    check_links(receipt, events)
    needed = {(entry["log"], entry["proof"]["size"]) for entry in entries}
    roots, anchored = {}, True
    for text in receipt["checkpoints"]:
        note = read_note(text)
        origin, size, root = read_tree_head(note[0])
        demand((origin, size) in needed and (origin, size) not in roots, "checkpoint_unused")
        roots[origin, size] = root
        anchored &= check_signatures(note, origin, keys, quorum)
    demand(set(roots) == needed, "checkpoint_missing")
    for entry in entries:
        demand(commitment_of(entry) == entry["commitment"], "commitment_mismatch")
        check_inclusion(entry, roots[entry["log"], entry["proof"]["size"]])
    check_sequence(entries)
    for disclosure in receipt.get("disclosures", []):
        check_disclosure(disclosure, events)
    return "valid" if anchored else "unanchored"


def answer(data, keys, quorum):
    try:
        return verify(data, keys, quorum), ""
    except Invalid as reason:
        return "invalid", str(reason)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key", action="append", default=[], type=Key)
    parser.add_argument("--quorum", type=int, default=0)
    parser.add_argument("--batch", action="store_true", help="answer with bare verdicts")
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    while args.batch and (head := sys.stdin.buffer.read(4)):
        data = sys.stdin.buffer.read(struct.unpack(">I", head)[0])
        print(answer(data, args.key, args.quorum)[0])
    verdicts = []
    for name in args.files:
        with open(name, "rb") as file:
            verdict, reason = answer(file.read(), args.key, args.quorum)
        verdicts.append(verdict)
        print(f"{name}: {verdict}{': ' + reason if reason else ''}")
    sys.exit(0 if all(verdict == "valid" for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
