//! `cargo xtask kms`: a node whose signing keys and root key are in moto's KMS, an implementation that is not ours and that checks signatures and
//! policies, through a stretch of network that is cut and held up.
//!
//! moto 5.2.5 cannot sign as AWS does: it hashes what `MessageType` says is a digest already, and `GetPublicKey` does not say `KeySpec`. As it is it
//! wraps the root, and the node makes nothing of its other answers; with these two answers mended (`xtask/stand-ins/mended_moto.py`), and nothing else, it keeps the
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
    Scene::set(binary, &directory.join("mended"), Some("mended_moto.py"))?.mended()?;
    println!("kms: ok");
    Ok(true)
}

impl<'a> Scene<'a> {
    fn set(binary: &'a Path, directory: &Path, server: Option<&str>) -> Result<Self> {
        fs::create_dir(directory)?;
        let moto = Moto::start(directory, server, "kms.py", &["setup"])?;
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
        ensure!(
            clear,
            "HTTP {}: {said}; if moto has learned to sign as AWS does, take mended_moto.py out",
            refused.status
        );
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
