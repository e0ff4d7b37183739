"""Verifies signed artifacts with jwcrypto, unmodified, from the key set alone.

Reads a JSON list of cases from standard input: {"name", "jws", "jwks"} and perhaps "payload"; all but the name are paths.
Prints one JSON verdict per line: {"name", "ok", "error"}. A payload is what must have been signed, byte for byte.

    python3 jose_verify.py < cases.json        # needs: pip install jwcrypto
"""

import json
import sys
from pathlib import Path

from jwcrypto import jwk, jws


def verify(case: dict) -> None:
    keys = jwk.JWKSet.from_json(Path(case["jwks"]).read_text())
    token = jws.JWS()
    token.allowed_algs = ["ES256"]
    # It tells the forms apart by itself.
    token.deserialize(Path(case["jws"]).read_text())
    key = keys.get_key(token.jose_header["kid"])
    if key is None:
        raise ValueError("no key of that kid")
    token.verify(key)
    if "payload" in case and token.payload != Path(case["payload"]).read_bytes():
        raise ValueError("another payload")


def main() -> None:
    for case in json.load(sys.stdin):
        verdict = {"name": case["name"], "ok": True, "error": None}
        try:
            verify(case)
        except Exception as error:  # Whatever it is refused with, it is refused.
            verdict["ok"] = False
            verdict["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
