"""moto's server with two answers of its KMS as AWS gives them; <https://github.com/getmoto/moto/pull/10202> would do the first."""

import base64, json
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.responses import KmsResponse
from moto.server import main

sign, get_public_key = KmsResponse.sign, KmsResponse.get_public_key

def signed(self):
    # With all of moto's checks; only the signature is another.
    answer = json.loads(sign(self))
    if self._get_param("MessageType") == "DIGEST":
        key = self.kms_backend.describe_key(self._get_param("KeyId")).private_key.private_key
        signature = key.sign(self._get_param("Message"), ec.ECDSA(Prehashed(hashes.SHA256())))
        answer["Signature"] = base64.b64encode(signature).decode()
    return json.dumps(answer)

def public_key(self):
    answer = json.loads(get_public_key(self))
    answer["KeySpec"] = answer["CustomerMasterKeySpec"]
    return json.dumps(answer)

KmsResponse.sign, KmsResponse.get_public_key = signed, public_key
main()
