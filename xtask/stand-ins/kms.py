"""KMS as moto has it, looked at by boto3, which shares no code with the product.

    kms.py setup URL          makes the root's key and a user with the permissions of docs/keys.md, and turns the check of signatures and policies on
    kms.py keys URL           the points of the node's signing keys, as JSON
    kms.py root URL FILE      unwraps the root key

The latter two turn the check off meanwhile.
"""

import base64, json, sys, urllib.request
import boto3
from botocore.config import Config

command, url, *rest = sys.argv[1:]
config = Config(region_name="eu-central-1", retries={"max_attempts": 1}, connect_timeout=5, read_timeout=15)

def client(service):
    anybody = {"aws_access_key_id": "setup", "aws_secret_access_key": "setup"}
    return boto3.client(service, endpoint_url=url, config=config, **anybody)

def check(whether):
    count, plain = b"0" if whether else b"inf", {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", data=count, headers=plain, method="POST")
    urllib.request.urlopen(request, timeout=10).read()

def setup():
    iam, kms = client("iam"), client("kms")
    actions = "CreateKey TagResource CreateAlias DescribeKey GetPublicKey Sign ScheduleKeyDeletion Encrypt Decrypt"
    statement = {"Effect": "Allow", "Action": ["kms:" + name for name in actions.split()], "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.create_user(UserName="node")
    iam.put_user_policy(UserName="node", PolicyName="keys", PolicyDocument=document)
    key = iam.create_access_key(UserName="node")["AccessKey"]
    root = kms.create_key(Description="wraps the root")["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/countersign-root", TargetKeyId=root)
    check(True)
    return {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}

def keys():
    kms, found = client("kms"), []
    for alias in kms.list_aliases()["Aliases"]:
        if alias["AliasName"].startswith("alias/countersign/"):
            point = kms.get_public_key(KeyId=alias["TargetKeyId"])["PublicKey"][-64:]
            x, y = (base64.urlsafe_b64encode(half).rstrip(b"=").decode() for half in (point[:32], point[32:]))
            found.append({"x": x, "y": y})
    return found

def root(path):
    with open(path) as file:
        wrapped = base64.b64decode(file.read())[1:]
    plain = client("kms").decrypt(CiphertextBlob=wrapped, EncryptionContext={"countersign": "root"})["Plaintext"]
    return base64.b64encode(plain).decode()

if command != "setup":
    check(False)
told = {"setup": setup, "keys": keys, "root": root}[command](*rest)
check(True)
print(json.dumps(told))
