"""S3 as moto has it, looked at and changed by boto3, which shares no code with the product.

    s3.py setup URL LOCKED PLAIN          makes two buckets and an access key, and turns the check of signatures and policies on
    s3.py objects URL BUCKET              every version with its lock, as JSON
    s3.py overwrite|delete URL BUCKET KEY
    s3.py destroy|shorten URL BUCKET KEY VERSION
    s3.py forbid|allow URL ACTION         what the access key may not do, from now on

All but `setup` take the access key from the environment.
"""

import base64
import datetime
import json
import os
import sys
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "eu-central-1"
USER = "node"


def client(service, url, **keys):
    config = Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=15)
    return boto3.client(service, endpoint_url=url, region_name=REGION, config=config, **keys)


def may(url, denied=None, **keys):
    """The rights that docs/artifact.md lists, and whatever this program needs; one of them taken away, if it is named."""
    statements = [{"Effect": "Allow", "Action": ["s3:*", "iam:*"], "Resource": "*"}]
    if denied:
        statements.append({"Effect": "Deny", "Action": denied, "Resource": "*"})
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    client("iam", url, **keys).put_user_policy(UserName=USER, PolicyName="objects", PolicyDocument=document)


def setup(url, locked, plain):
    anybody = {"aws_access_key_id": "setup", "aws_secret_access_key": "setup"}
    iam, s3 = client("iam", url, **anybody), client("s3", url, **anybody)
    iam.create_user(UserName=USER)
    may(url, **anybody)
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    place = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket=locked, CreateBucketConfiguration=place, ObjectLockEnabledForBucket=True)
    s3.create_bucket(Bucket=plain, CreateBucketConfiguration=place)
    # From here on every request needs a right signature.
    plain = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", data=b"0", headers=plain, method="POST")
    urllib.request.urlopen(request, timeout=10).read()
    return {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}


def objects(url, bucket):
    s3, found = client("s3", url), []
    for version in s3.list_object_versions(Bucket=bucket).get("Versions", []):
        name = {"Bucket": bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
        got = s3.get_object(**name)
        until = got.get("ObjectLockRetainUntilDate")
        found.append(
            {
                "key": version["Key"],
                "version": version["VersionId"],
                "latest": version["IsLatest"],
                "mode": got.get("ObjectLockMode"),
                "until": until and int(until.timestamp()),
                "hold": got.get("ObjectLockLegalHoldStatus") == "ON",
                "encryption": got.get("ServerSideEncryption"),
                "body": base64.b64encode(got["Body"].read()).decode(),
            }
        )
    return found


def retain(url, bucket, key, version, days):
    """What a real store refuses: moto lets a retention be shortened, and into the past."""
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    client("s3", url).put_object_retention(
        Bucket=bucket, Key=key, VersionId=version, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
    )


def destroy(url, bucket, key, version):
    """Refused while the lock holds, and done once it does not: which of both is told."""
    name = {"Bucket": bucket, "Key": key, "VersionId": version}
    try:
        client("s3", url).delete_object(**name)
        return {"refused": False}
    except ClientError:
        retain(url, bucket, key, version, -1)
        client("s3", url).delete_object(**name)
        return {"refused": True}


def main(command, url, *rest):
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    s3 = client("s3", url) if command != "setup" else None
    done = {
        "setup": lambda: setup(url, *rest),
        "objects": lambda: objects(url, *rest),
        "overwrite": lambda: s3.put_object(Bucket=rest[0], Key=rest[1], Body=b"something else") and None,
        "delete": lambda: s3.delete_object(Bucket=rest[0], Key=rest[1]) and None,
        "destroy": lambda: destroy(url, *rest),
        "shorten": lambda: retain(url, *rest, days=1),
        "forbid": lambda: may(url, rest[0]),
        "allow": lambda: may(url),
    }[command]()
    print(json.dumps(done))


main(*sys.argv[1:])
