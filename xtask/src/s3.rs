//! `cargo xtask s3`: signed artifacts in a bucket of moto's S3, an implementation that is not ours and that checks signatures and policies.
//!
//! A real node keeps artifacts there, through a stretch of network that is cut and held up; boto3 looks at what is in the bucket and changes it behind
//! the node's back. What holds a lock is the provider's: moto lets a retention be shortened, which a real store does not.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_testkit::node::Launch;
use countersign_testkit::proxy::Proxy;
use countersign_testkit::{Client, Home, Node, Response};
use serde_json::{Value, json};

use crate::moto::Moto;
use crate::{paths, setup};

const LOCKED: &str = "kept";
const PLAIN: &str = "plain";
const DAYS: u64 = 2190;
const START: Duration = Duration::from_secs(30);

/// What was checked, and what held.
#[derive(Default)]
struct Checks {
    held: usize,
    all: usize,
}

impl Checks {
    fn check(&mut self, what: &str, holds: bool, found: impl FnOnce() -> String) {
        self.all += 1;
        self.held += usize::from(holds);
        if !holds {
            println!("  FAILED: {what}: {}", found());
        }
    }
}

/// A node on the bucket, and everything around it.
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
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::stand_ins()?;
    let directory = paths::run_directory("s3")?;
    let moto = Moto::start(&directory, None, "s3.py", &["setup", LOCKED, PLAIN])?;
    let network = Proxy::start(moto.port())?;
    let home = Home::create(&directory.join("home"), &settings(LOCKED, network.port()))?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let mut launch = Launch::new(binary);
    launch.environment = moto.key().to_vec();
    let scene = Scene { binary, launch, home, moto, network };
    let mut checks = Checks::default();
    scene.refusals(&directory, &mut checks)?;
    let node = scene.launch.start(&scene.home)?;
    scene.kept(&node, &mut checks)?;
    scene.held(&node, &mut checks)?;
    scene.away(&node, &mut checks)?;
    node.stop()?;
    let node = scene.launch.start(&scene.home)?;
    scene.behind_the_back(&node, &mut checks)?;
    node.stop()?;
    println!("s3: {}/{}", checks.held, checks.all);
    Ok(checks.held == checks.all)
}

/// Runs a node that must not start: whether it ended by itself with a failure, and what it said.
///
/// # Errors
/// If it cannot be run.
pub fn refused(command: &mut Command, home: &Home) -> Result<(bool, String)> {
    let log = home.directory().join("refused.log");
    let file = fs::File::create(&log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().context("running the node")?;
    let end = Instant::now() + START;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Ok((status.is_some_and(|status| !status.success()), fs::read_to_string(&log)?))
}

fn settings(bucket: &str, port: u16) -> String {
    format!(
        "[trust]\nenabled = true\n[trust.s3]\nbucket = \"{bucket}\"\nregion = \"eu-central-1\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
         prefix = \"node-1\"\nretention = \"{DAYS}d\"\nencryption = \"AES256\"\ntimeout = \"2s\"\n"
    )
}

impl Scene<'_> {
    /// What will not do keeps the node from starting, and the words say why.
    fn refusals(&self, directory: &Path, checks: &mut Checks) -> Result<()> {
        let port = self.network.port();
        let wrong = |name: &str, value: &str| {
            let mut key = self.moto.key().to_vec();
            key.iter_mut().filter(|(known, _)| known == name).for_each(|(_, old)| value.clone_into(old));
            key
        };
        let right = self.moto.key().to_vec();
        for (n, (bucket, key, words)) in [
            (PLAIN, right.clone(), "no Object Lock"),
            ("no-such-bucket", right.clone(), "make the bucket"),
            (LOCKED, wrong("AWS_SECRET_ACCESS_KEY", "another"), "check the secret access key"),
            (LOCKED, wrong("AWS_ACCESS_KEY_ID", "AKIANOBODY"), "does not know these credentials"),
            (LOCKED, Vec::new(), "AWS_ACCESS_KEY_ID"),
        ]
        .into_iter()
        .enumerate()
        {
            let home = Home::create(&directory.join(format!("refused-{n}")), &settings(bucket, port))?;
            let mut command = Command::new(self.binary);
            command.args(["up", "--home"]).arg(home.directory());
            for (name, _) in &right {
                command.env_remove(name);
            }
            let (ended, said) = refused(command.envs(key), &home)?;
            let holds = ended && said.contains("[trust.s3]") && said.contains(words);
            checks.check(&format!("a node that must not start: {words}"), holds, || said.clone());
            checks.check("no secret is shown", right.iter().all(|(_, value)| !said.contains(value)), || said.clone());
        }
        self.moto.do_(&["forbid", "s3:GetBucketVersioning"])?;
        let home = Home::create(&directory.join("forbidden"), &settings(LOCKED, port))?;
        let mut command = Command::new(self.binary);
        command.args(["up", "--home"]).arg(home.directory()).envs(right.clone());
        let (_, said) = refused(&mut command, &home)?;
        checks.check("what the policy forbids is said", said.contains("must both allow it"), || said.clone());
        self.moto.do_(&["allow"]).map(drop)
    }

    /// An artifact is one object, locked and encrypted, that is the JWS; sent again it is the same.
    fn kept(&self, node: &Node, checks: &mut Checks) -> Result<()> {
        let mut client = self.client(node);
        let jws = create(&mut client, 1, 1)?.expect(201)?;
        let objects = self.objects()?;
        checks.check("one object", objects.len() == 1, || format!("{objects:?}"));
        let object = &objects[0];
        let body = STANDARD.decode(object["body"].as_str().unwrap_or_default())?;
        checks.check("it is the JWS", serde_json::from_slice::<Value>(&body).ok().as_ref() == Some(&jws), || {
            object.to_string()
        });
        let prefix = format!("node-1/artifacts/default/{}/1-", id(1));
        checks.check("under its name", text(object, "key").starts_with(&prefix), || object.to_string());
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let kept = object["until"].as_u64().map(|until| until.saturating_sub(now)).unwrap_or_default();
        let locked = object["mode"] == "COMPLIANCE" && (DAYS * 86_400 - 60..=DAYS * 86_400 + 60).contains(&kept);
        checks.check("locked for as long as was asked", locked, || object.to_string());
        checks.check("encrypted", object["encryption"] == "AES256", || object.to_string());
        let again = create(&mut client, 1, 1)?.expect(201)?;
        checks.check("the same again", again == jws && self.objects()?.len() == 1, || again.to_string());
        checks.check("read back", read(&mut client, 1)? == Some(jws), String::new);
        checks.check("it verifies", verifies(&mut client, 1)?, String::new);
        let scrubbed = scrub(node)?;
        checks.check("a clean scrub", scrubbed["checked"] == 1 && scrubbed["intact"] == 1, || scrubbed.to_string());
        Ok(())
    }

    /// By the command line and over HTTP, on every version.
    fn held(&self, node: &Node, checks: &mut Checks) -> Result<()> {
        let mut client = self.client(node);
        let id = id(1);
        let held = |objects: &[Value]| objects.iter().map(|object| object["hold"] == true).collect::<Vec<_>>();
        let (status, said) = self.command(&["artifacts", "hold", &id, "--reason", "case 4711"])?;
        checks.check("held", status == 0 && held(&self.objects()?) == [true], || said);
        create(&mut client, 1, 2)?.expect(201)?;
        checks.check("the next version, too", held(&self.objects()?) == [true, true], String::new);
        let listed = client.get("/artifacts")?.expect(200)?;
        checks.check("listed as held", listed[0]["hold"] == true && listed[1]["hold"] == true, || listed.to_string());
        let body = json!({ "hold": false, "reason": "not this one", "version": 2 });
        let one = client.post(&format!("/artifacts/{id}/hold"), &body)?.expect(200)?;
        let states = held(&self.objects()?);
        checks.check("released", states.iter().filter(|held| **held).count() == 1, || format!("{one} {states:?}"));
        let (status, said) = self.command(&["artifacts", "hold", &id, "--release", "--reason", "closed"])?;
        checks.check("released by command", status == 0 && held(&self.objects()?) == [false, false], || said);
        let scrubbed = scrub(node)?;
        checks.check("a clean scrub", scrubbed["checked"] == 2 && scrubbed["intact"] == 2, || scrubbed.to_string());
        Ok(())
    }

    /// While the store is away or silent nothing is made, and nothing is lost.
    fn away(&self, node: &Node, checks: &mut Checks) -> Result<()> {
        let mut client = self.client(node);
        let before = self.objects()?.len();
        for (n, name) in ["away", "silent"].into_iter().enumerate() {
            let number = n + 2;
            match name {
                "away" => self.network.cut(),
                _ => self.network.halt(),
            }
            let start = Instant::now();
            let refused = create(&mut client, number, 1)?;
            checks.check(&format!("{name}: 502"), refused.status == 502, || {
                format!("{} {}", refused.status, words(&refused))
            });
            checks.check(&format!("{name}: in time"), start.elapsed() < Duration::from_secs(6), || {
                format!("{:?}", start.elapsed())
            });
            let got = client.get(&format!("/artifacts/{}", id(1)))?;
            checks.check(&format!("{name}: reads say so"), got.status == 502, || words(&got));
            let listed = client.get("/artifacts")?.expect(200)?;
            let count = listed.as_array().map(Vec::len);
            checks.check(&format!("{name}: nothing is half made"), count == Some(before + n), || listed.to_string());
            self.network.open();
            let made = create(&mut client, number, 1)?;
            checks.check(&format!("{name}: and back"), made.status == 201, || {
                format!("{} {}", made.status, words(&made))
            });
            checks.check(&format!("{name}: it holds"), verifies(&mut client, number)?, String::new);
        }
        self.moto.do_(&["forbid", "s3:PutObject"])?;
        let refused = create(&mut client, 4, 1)?;
        checks.check("forbidden: 502", refused.status == 502, || words(&refused));
        self.moto.do_(&["allow"])?;
        let made = create(&mut client, 4, 1)?;
        checks.check("allowed again", made.status == 201, || words(&made));
        let scrubbed = scrub(node)?;
        checks.check("a clean scrub", scrubbed["checked"] == scrubbed["intact"], || scrubbed.to_string());
        Ok(())
    }

    /// Somebody with rights on the bucket lays something over objects, deletes them, destroys them, shortens their retention.
    fn behind_the_back(&self, node: &Node, checks: &mut Checks) -> Result<()> {
        let mut client = self.client(node);
        let objects = self.objects()?;
        // What was under way while the store was silent may have left objects that no artifact has.
        let of = |jws: &Option<Value>| -> Result<(String, String)> {
            let is_it = |object: &&Value| {
                let body = STANDARD.decode(text(object, "body")).unwrap_or_default();
                serde_json::from_slice(&body).ok().as_ref() == jws.as_ref()
            };
            let object = objects.iter().find(is_it).context("an artifact has no object")?;
            Ok((text(object, "key").to_owned(), text(object, "version").to_owned()))
        };
        let kept = [read(&mut client, 2)?, read(&mut client, 3)?];
        self.moto.do_(&["overwrite", LOCKED, &of(&kept[0])?.0])?;
        self.moto.do_(&["delete", LOCKED, &of(&kept[1])?.0])?;
        let still = [read(&mut client, 2)?, read(&mut client, 3)?];
        checks.check("the pinned versions are still read", kept == still && kept[0].is_some(), || format!("{still:?}"));
        checks.check("they verify", verifies(&mut client, 2)? && verifies(&mut client, 3)?, String::new);
        let (status, said) = self.command(&["artifacts", "scrub"])?;
        let named = said.contains("another version")
            && said.contains("was deleted")
            && said.contains(&id(2))
            && said.contains(&id(3));
        checks.check("the scrub names them", named, || said.clone());
        checks.check("by its exit code, too", status == 3, || status.to_string());

        let (key, version) = of(&read(&mut client, 4)?)?;
        self.moto.do_(&["shorten", LOCKED, &key, &version])?;
        let scrubbed = scrub(node)?;
        let why = |number: usize, found: &Value| -> String {
            let list = found["damaged"].as_array().cloned().unwrap_or_default();
            list.iter()
                .find(|one| one["id"] == id(number).as_str())
                .map_or(String::new(), |one| text(one, "why").to_owned())
        };
        checks
            .check("a shorter retention is named", why(4, &scrubbed).contains("days earlier"), || scrubbed.to_string());
        let done = self.moto.do_(&["destroy", LOCKED, &key, &version])?;
        checks.check("the lock was there", done["refused"] == true, || done.to_string());
        let gone = client.get(&format!("/artifacts/{}", id(4)))?;
        checks.check("what is destroyed is not handed out", gone.status >= 500, || words(&gone));
        let scrubbed = scrub(node)?;
        checks.check("and is named", why(4, &scrubbed).contains("is missing"), || scrubbed.to_string());
        let counts = scrubbed["checked"] == 5 && scrubbed["intact"] == 4;
        checks.check("nothing else is", counts && scrubbed["orphans"] == 0, || scrubbed.to_string());
        Ok(())
    }

    fn client(&self, node: &Node) -> Client {
        node.client(&self.home.agent("maker", &["tester"])).timeout(Duration::from_secs(30))
    }

    fn objects(&self) -> Result<Vec<Value>> {
        let found = self.moto.do_(&["objects", LOCKED])?;
        Ok(found.as_array().cloned().unwrap_or_default())
    }

    fn command(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = Command::new(self.binary)
            .args(arguments)
            .env("COUNTERSIGN_URL", format!("http://{}", self.home.address()))
            .env("COUNTERSIGN_TOKEN", self.home.operator())
            .stdin(Stdio::null())
            .output()
            .context("running the command line")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned()))
    }
}

fn id(number: usize) -> String {
    format!("0197f3a2-5c1e-7d40-9a6b-{number:012x}")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn words(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

fn create(client: &mut Client, number: usize, version: u64) -> Result<Response> {
    let artifact = json!({
        "id": id(number), "type": "baseline_module", "version": version, "workspaceId": "default",
        "createdAt": "2026-03-01T12:00:00Z",
        "jsonBody": { "name": format!("module {number}"), "module_version": version.to_string(), "controls": [{ "id": "AC-2", "statement": "Accounts are reviewed." }] },
    });
    client.post("/artifacts", &artifact)
}

fn read(client: &mut Client, number: usize) -> Result<Option<Value>> {
    let found = client.get(&format!("/artifacts/{}", id(number)))?;
    if found.status == 200 { found.json().map(Some) } else { Ok(None) }
}

fn verifies(client: &mut Client, number: usize) -> Result<bool> {
    let report = client.post(&format!("/artifacts/{}/verify", id(number)), &json!({}))?.expect(200)?;
    Ok(report["valid"] == true)
}

fn scrub(node: &Node) -> Result<Value> {
    node.operator().timeout(Duration::from_secs(60)).post("/admin/artifacts/scrub", &json!({}))?.expect(200)
}
