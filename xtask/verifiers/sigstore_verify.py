"""Verifies bundles with sigstore-python, unmodified, as its command line does.

Reads a JSON list of cases from standard input: {"name", "bundle", "trust_config", "artifact", "identity", "issuer"}, where
all but the last two are paths. Prints one JSON verdict per line: {"name", "ok", "error"}. A case with a "key" is
skipped ("ok": null): sigstore-python takes certificates only.

    python3 sigstore_verify.py < cases.json        # needs: pip install sigstore
"""

import hashlib
import json
import sys
from pathlib import Path

from sigstore.models import Bundle, ClientTrustConfig
from sigstore.verify import Verifier, policy

IN_TOTO = "application/vnd.in-toto+json"


def verifier_for(path: str, known: dict[bytes, Verifier]) -> Verifier:
    """The verifier for a trust config; equal ones are read once."""
    text = Path(path).read_bytes()
    if text not in known:
        known[text] = Verifier(trusted_root=ClientTrustConfig.from_json(text.decode()).trusted_root)
    return known[text]


def verify(case: dict, known: dict[bytes, Verifier]) -> None:
    verifier = verifier_for(case["trust_config"], known)
    text = Path(case["bundle"]).read_bytes()
    bundle = Bundle.from_json(text)
    artifact = Path(case["artifact"]).read_bytes()
    expected = policy.Identity(identity=case["identity"], issuer=case["issuer"])
    if "dsseEnvelope" not in json.loads(text):
        verifier.verify_artifact(artifact, bundle, expected)
        return
    payload_type, payload = verifier.verify_dsse(bundle, expected)
    # What the statement is about is left to the caller.
    digests = [subject["digest"].get("sha256") for subject in json.loads(payload)["subject"]]
    if payload_type != IN_TOTO or hashlib.sha256(artifact).hexdigest() not in digests:
        raise ValueError("no subject of the statement has the artifact's digest")


def main() -> None:
    known: dict[bytes, Verifier] = {}
    for case in json.load(sys.stdin):
        verdict = {"name": case.get("name", case["bundle"]), "ok": None, "error": None}
        if "key" in case:
            verdict["error"] = "skipped: a bare key"
        else:
            try:
                verify(case, known)
                verdict["ok"] = True
            except Exception as error:  # Whatever it is refused with, it is refused.
                verdict["ok"] = False
                verdict["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
