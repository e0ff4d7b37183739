"""Signs with sigstore-python, unmodified, at the services that a trust config names.

Reads a JSON object from standard input: {"trust_config", "token", "artifact", "out"}: paths, but for the token. Writes a bundle over the
artifact and one with a statement about it to out-artifact.json and out-statement.json.

    python3 sigstore_sign.py < order.json        # needs: pip install sigstore
"""

import hashlib
import json
import sys
from pathlib import Path

from sigstore.dsse import DigestSet, StatementBuilder, Subject
from sigstore.models import ClientTrustConfig
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext


def main() -> None:
    order = json.load(sys.stdin)
    artifact = Path(order["artifact"]).read_bytes()
    config = ClientTrustConfig.from_json(Path(order["trust_config"]).read_text())
    digest = DigestSet(root={"sha256": hashlib.sha256(artifact).hexdigest()})
    statement = StatementBuilder(
        subjects=[Subject(name="artifact", digest=digest)],
        predicate_type="https://slsa.dev/provenance/v1",
        predicate={"buildDefinition": {}},
    ).build()
    context = SigningContext.from_trust_config(config)
    with context.signer(IdentityToken(order["token"])) as signer:
        Path(order["out"] + "-artifact.json").write_text(signer.sign_artifact(artifact).to_json())
        Path(order["out"] + "-statement.json").write_text(signer.sign_dsse(statement).to_json())


if __name__ == "__main__":
    main()
