//! `cargo xtask kms`: a node whose signing keys and root key are in moto's KMS, an implementation that is not ours and that checks signatures and
//! policies, through a stretch of network that is cut and held up.
//!
//! moto 5.2.5 cannot sign as AWS does: it hashes what `MessageType` says is a digest already, and `GetPublicKey` does not say `KeySpec`. As it is it
//! wraps the root, and the node makes nothing of its other answers; with these two answers mended ([`MENDED`]), and nothing else, it keeps the
//! signing keys, too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use countersign_testkit::node::Launch;
use countersign_testkit::proxy::Proxy;
use countersign_testkit::{Home, Node};
use serde_json::Value;

use crate::moto::Moto;
use crate::softhsm::{
    all_hold, away, create, keys, maker, nothing_new, root_is_wrapped, two_keys, verified, without, words,
};
use crate::{paths, setup};

/// Runs moto with two answers as AWS gives them: <https://github.com/getmoto/moto/pull/10202> would do the first.
const MENDED: &str = r#"
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
"#;

/// `setup` makes the root's key and a user with the permissions of docs/keys.md, and turns the check of signatures and policies on; `keys` tells the
/// points of the node's signing keys; `root FILE` unwraps the root key. The latter two turn the check off meanwhile.
const LOOK: &str = r#"
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
"#;

/// A node before moto, and everything around it.
struct Scene<'a> {
    binary: &'a Path,
    launch: Launch,
    home: Home,
    moto: Moto,
    network: Proxy,
}

/// Runs it; the answer is whether everything held.
///
/// # Errors
/// If something did not, or the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::stand_ins()?;
    let directory = paths::run_directory("kms")?;
    Scene::set(binary, &directory.join("as-it-is"), None)?.as_it_is()?;
    Scene::set(binary, &directory.join("mended"), Some(MENDED))?.mended()?;
    println!("kms: ok");
    Ok(true)
}

impl<'a> Scene<'a> {
    fn set(binary: &'a Path, directory: &Path, instead: Option<&str>) -> Result<Self> {
        fs::create_dir(directory)?;
        let moto = Moto::start(directory, instead, vec!["-c".into(), LOOK.into()], &["setup"])?;
        let network = Proxy::start(moto.port())?;
        let settings = format!(
            "[trust]\nenabled = true\n[keys]\nprovider = \"aws-kms\"\nregion = \"eu-central-1\"\nendpoint = \"http://127.0.0.1:{}\"\n\
             root_key = \"alias/countersign-root\"\nwrap_root = true\ntimeout = \"3s\"\n",
            network.port()
        );
        let home = Home::create(&directory.join("home"), &settings)?;
        home.access("all", "permit (principal, action, resource);\n")?;
        let mut launch = Launch::new(binary);
        launch.environment = moto.key().to_vec();
        Ok(Self { binary, launch, home, moto, network })
    }

    /// The root is wrapped, and unwrapped at the next start. With a key of which KMS does not say what AWS says nothing is signed.
    fn as_it_is(&self) -> Result<()> {
        let node = self.launch.start(&self.home)?;
        let refused = create(&mut maker(&node), 1)?;
        let said = words(&refused);
        let clear = refused.status == 502 && said.contains("answer to GetPublicKey is not what it documents");
        ensure!(clear, "HTTP {}: {said}; if moto has learned to sign as AWS does, take MENDED out", refused.status);
        nothing_new(&node, 0)?;
        ensure!(keys(&node)?.is_empty(), "a key was made known that cannot be used");
        node.stop()?;
        self.launch.start(&self.home)?.stop()?;
        self.nothing_in_the_clear()
    }

    fn mended(&self) -> Result<()> {
        let node = self.launch.start(&self.home)?;
        two_keys(&node, "aws-kms")?;
        self.network_away(&node)?;
        node.stop()?;
        self.network.cut();
        let said = without(self.binary, &self.home, &self.launch.environment)?;
        ensure!(said.contains("root.wrapped") && said.contains("AWS KMS"), "no clear error: {said}");
        self.network.open();
        let node = self.launch.start(&self.home)?;
        create(&mut maker(&node), 5)?.expect(201)?;
        let published = all_hold(&node, 5)?;
        let kept = self.moto.do_(&["keys"])?;
        let same = points(&published["keys"]) == points(&kept);
        ensure!(same, "the key set is not that of the keys in KMS: {published} {kept}");
        node.stop()?;
        self.nothing_in_the_clear()
    }

    /// KMS says no, and says nothing; once it is back, the same artifact is made.
    fn network_away(&self, node: &Node) -> Result<()> {
        let ways: [fn(&Proxy); 2] = [Proxy::cut, Proxy::halt];
        for (number, leave) in (3..).zip(ways) {
            let leave = || {
                leave(&self.network);
                Ok(())
            };
            let back = || {
                self.network.open();
                Ok(())
            };
            let refused = away(node, number, leave, back)?;
            let said = words(&refused);
            let clear = said.contains("nothing was signed") && said.contains("AWS KMS");
            ensure!(refused.status == 502 && clear, "no clear error: HTTP {}: {said}", refused.status);
            let mut client = maker(node);
            create(&mut client, number)?.expect(201)?;
            verified(&mut client, number)?;
        }
        Ok(())
    }

    /// The root key, as KMS unwraps it, and the credentials are in no file of the home, in none of the forms in which one would write them. That the
    /// signing keys are not is said by who keeps them: KMS does not hand them out.
    fn nothing_in_the_clear(&self) -> Result<()> {
        root_is_wrapped(&self.home)?;
        let wrapped = self.home.directory().join("data/keys/root.wrapped");
        let wrapped = wrapped.to_str().context("a path that is not UTF-8")?;
        let root = self.moto.do_(&["root", wrapped])?;
        let root = STANDARD.decode(root.as_str().context("no root key")?)?;
        ensure!(root.len() == 32, "the root key has {} bytes", root.len());
        let hex: String = root.iter().map(|byte| format!("{byte:02x}")).collect();
        let texts = [hex.to_uppercase(), hex, STANDARD_NO_PAD.encode(&root), URL_SAFE_NO_PAD.encode(&root)];
        let mut secrets: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
        secrets.push(root);
        let credentials = self.moto.key().iter().filter(|(name, _)| name == "AWS_SECRET_ACCESS_KEY");
        secrets.extend(credentials.map(|(_, secret)| secret.clone().into_bytes()));
        let looked_at = search(self.home.directory(), &secrets)?;
        ensure!(looked_at > 5, "{looked_at} files of a home that has run were looked at");
        Ok(())
    }
}

fn points(keys: &Value) -> BTreeSet<String> {
    keys.as_array().into_iter().flatten().map(|key| format!("{} {}", key["x"], key["y"])).collect()
}

/// How many files there are below the directory; none of them has one of these in it.
fn search(directory: &Path, secrets: &[Vec<u8>]) -> Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files += search(&path, secrets)?;
            continue;
        }
        files += 1;
        let content = fs::read(&path)?;
        let found = secrets.iter().any(|secret| content.windows(secret.len()).any(|window| window == secret));
        ensure!(!found, "a secret lies in the clear in {}", path.display());
    }
    Ok(files)
}
