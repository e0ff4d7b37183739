//! PKCS#11 against SoftHSM2, the real thing.
//!
//! A module is initialised once per process and reads its configuration then, so every test runs its phases in processes of their
//! own: the test binary starts itself again. What one phase leaves behind the next one finds as after a restart.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_keys::{KeyError, Pkcs11Config, Pkcs11Keys, RootKey as _, SecretSource, SigningKeys as _, TokenChoice};
use countersign_proof::digest::Digest;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];
const PIN: &str = "73514892";
/// `prime256v1` in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

fn module() -> PathBuf {
    let found = MODULES.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("SoftHSM2 is not installed: run `cargo xtask setup`, or `apt-get install softhsm2`")
}

/// A folder with a token "first" in it, and what one phase tells the next.
struct Scene {
    folder: PathBuf,
}

type Phase = fn(&Scene);

/// Runs a test's phases, each in a process of its own.
fn alone(test: &str, phases: &[Phase]) {
    const FOLDER: &str = "COUNTERSIGN_SOFTHSM_FOLDER";
    const PHASE: &str = "COUNTERSIGN_SOFTHSM_PHASE";
    if let (Some(folder), Ok(phase)) = (std::env::var_os(FOLDER), std::env::var(PHASE)) {
        return phases[phase.parse::<usize>().unwrap()](&Scene { folder: folder.into() });
    }
    let temporary = tempfile::tempdir().unwrap();
    let scene = Scene { folder: temporary.path().to_owned() };
    let tokens = scene.folder.join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration =
        format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    std::fs::write(scene.folder.join("softhsm2.conf"), configuration).unwrap();
    scene.keep("pin", PIN);
    let _ = module();
    scene.make_token("first");
    for phase in 0..phases.len() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", &format!("softhsm::{test}"), "--nocapture"]);
        child.env("SOFTHSM2_CONF", scene.folder.join("softhsm2.conf"));
        child.env(FOLDER, &scene.folder).env(PHASE, phase.to_string());
        let output = child.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success() && text.contains("1 passed"), "{test}, phase {phase}:\n{text}");
    }
}

impl Scene {
    fn make_token(&self, label: &str) {
        let mut tool = Command::new("softhsm2-util");
        tool.args(["--init-token", "--free", "--label", label, "--so-pin", "5555", "--pin", PIN]);
        let output = tool.env("SOFTHSM2_CONF", self.folder.join("softhsm2.conf")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn keep(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn kept(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap()
    }

    fn config(&self) -> Pkcs11Config {
        let pin = SecretSource::File(self.folder.join("pin"));
        Pkcs11Config::new(module(), TokenChoice::Label("first".to_owned()), pin)
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// A session of the test's own, beside the provider's: the same library in the same process.
fn raw() -> (Pkcs11, Slot, Session) {
    raw_with(PIN)
}

fn raw_with(pin: &str) -> (Pkcs11, Slot, Session) {
    let raw = Pkcs11::new(module()).unwrap();
    match raw.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => panic!("{error}"),
    }
    let is_first = |slot: &Slot| raw.get_token_info(*slot).unwrap().label() == "first";
    let slot = raw.get_slots_with_initialized_token().unwrap().into_iter().find(is_first).unwrap();
    let session = raw.open_rw_session(slot).unwrap();
    match session.login(UserType::User, Some(&AuthPin::from(pin))) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
        Err(error) => panic!("{error}"),
    }
    (raw, slot, session)
}

fn private_keys(session: &Session) -> Vec<ObjectHandle> {
    session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap()
}

#[test]
fn keys_sign_and_are_found_again_after_a_restart() {
    fn made(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let made = keys.create("acme/1").await.unwrap();
            assert_eq!(keys.create("acme/1").await.unwrap(), made);
            let other = keys.create("acme/2").await.unwrap();
            assert!(other.reference != made.reference && other.public != made.public);
            let signature = keys.sign(&made.reference, &Digest::of(b"text")).await.unwrap();
            assert!(made.public.verifies(b"text", &signature) && !other.public.verifies(b"text", &signature));
            scene.keep("reference", &made.reference);
            scene.keep("public", &made.public.to_value().to_string());
        });
    }
    fn found(scene: &Scene) {
        let public = countersign_proof::jwk::Jwk::parse(scene.kept("public").as_bytes()).unwrap();
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let reference = scene.kept("reference");
            let signature = keys.sign(&reference, &Digest::of(b"later")).await.unwrap();
            assert!(public.verifies(b"later", &signature));
            let again = keys.create("acme/1").await.unwrap();
            assert_eq!((again.reference, again.public), (reference, public));
            let unknown = keys.sign("00112233", &Digest::of(b"")).await;
            assert!(matches!(unknown, Err(KeyError::NotFound(_))), "{unknown:?}");
            let malformed = keys.sign("arn:aws:kms:x", &Digest::of(b"")).await;
            assert!(matches!(malformed, Err(KeyError::Malformed(_))), "{malformed:?}");
        });
        assert_eq!(private_keys(&raw().2).len(), 2);
    }
    alone("keys_sign_and_are_found_again_after_a_restart", &[made, found]);
}

#[test]
fn private_keys_do_not_leave_the_token() {
    fn phase(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            keys.create("acme/1").await.unwrap();
            keys.wrap(&[7; 32]).await.unwrap();
            // As whoever has the PIN could try, while the provider is logged in.
            let (_, _, session) = raw();
            let key = private_keys(&session)[0];
            let root = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]).unwrap()[0];
            let wrapping = session.generate_key(&Mechanism::AesKeyGen, &aes(&[Attribute::Wrap(true)])).unwrap();
            let open = session
                .generate_key(&Mechanism::AesKeyGen, &aes(&[Attribute::Extractable(true), Attribute::Sensitive(false)]))
                .unwrap();
            for key in [key, root] {
                let info = session.get_attribute_info(key, &[AttributeType::Value]).unwrap();
                assert!(matches!(info[..], [AttributeInfo::Sensitive]), "{info:?}");
                let wrapped = session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, key);
                assert!(matches!(wrapped, Err(Error::Pkcs11(RvError::KeyUnextractable, _))), "{wrapped:?}");
                let loosened = session.update_attributes(key, &[Attribute::Extractable(true)]);
                assert!(loosened.is_err(), "a key became extractable");
            }
            // The same attempts on a key that may leave do succeed.
            assert!(matches!(
                session.get_attribute_info(open, &[AttributeType::Value]).unwrap()[0],
                AttributeInfo::Available(32)
            ));
            assert!(!session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, open).unwrap().is_empty());
        });
    }
    alone("private_keys_do_not_leave_the_token", &[phase]);
}

fn aes(more: &[Attribute]) -> Vec<Attribute> {
    [&[Attribute::Token(false), Attribute::ValueLen(32.into())], more].concat()
}

#[test]
fn a_key_that_could_be_known_elsewhere_is_not_used() {
    fn phase(scene: &Scene) {
        let (_, _, session) = raw();
        let plant = |label: &str, id: u8, extractable: bool| {
            let common = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(vec![id; 16])];
            let public = [&common[..], &[Attribute::EcParams(P256.to_vec())]].concat();
            let kept = [Attribute::Sensitive(true), Attribute::Extractable(extractable), Attribute::Sign(true)];
            let private = [&common[..], &kept].concat();
            session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
        };
        plant("acme/leaky", 1, true);
        plant("acme/tight", 2, false);
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let refused = keys.create("acme/leaky").await;
            assert!(matches!(&refused, Err(KeyError::Refused(words)) if words.contains("acme/leaky")), "{refused:?}");
            assert_eq!(keys.create("acme/tight").await.unwrap().reference, "02".repeat(16));
        });
    }
    alone("a_key_that_could_be_known_elsewhere_is_not_used", &[phase]);
}

#[test]
fn half_a_pair_is_passed_over_and_replaced() {
    fn phase(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let first = keys.create("acme/1").await.unwrap();
            let (_, _, session) = raw();
            let public = session.find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY)]).unwrap();
            session.destroy_object(public[0]).unwrap();
            let second = keys.create("acme/1").await.unwrap();
            assert!(second.public != first.public && second.reference != first.reference);
            assert_eq!(keys.create("acme/1").await.unwrap(), second);
            let signature = keys.sign(&second.reference, &Digest::of(b"text")).await.unwrap();
            assert!(second.public.verifies(b"text", &signature));
        });
    }
    alone("half_a_pair_is_passed_over_and_replaced", &[phase]);
}

#[test]
fn a_public_key_that_is_not_the_private_ones_is_refused() {
    fn phase(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let (made, other) = (keys.create("acme/1").await.unwrap(), keys.create("acme/2").await.unwrap());
            let (_, _, session) = raw();
            let id = Attribute::Id(hex::decode(&made.reference).unwrap());
            let public = [Attribute::Class(ObjectClass::PUBLIC_KEY), id.clone()];
            let replace = |by: &countersign_proof::jwk::Jwk| {
                session.destroy_object(session.find_objects(&public).unwrap()[0]).unwrap();
                let point = [&[0x04, 0x41], &by.point()[..]].concat();
                let kind = Attribute::KeyType(cryptoki::object::KeyType::EC);
                let curve = Attribute::EcParams(P256.to_vec());
                let object = [&public[..], &[kind, curve, Attribute::Token(true), Attribute::EcPoint(point)]].concat();
                session.create_object(&object).unwrap();
            };
            replace(&other.public);
            let refused = keys.create("acme/1").await;
            assert!(matches!(&refused, Err(KeyError::Refused(words)) if words.contains("acme/1")), "{refused:?}");
            let fresh = Pkcs11Keys::open(scene.config()).await.unwrap();
            let refused = fresh.sign(&made.reference, &Digest::of(b"text")).await;
            assert!(matches!(&refused, Err(KeyError::Refused(_))), "{refused:?}");
            replace(&made.public);
            assert_eq!(keys.create("acme/1").await.unwrap(), made);
        });
    }
    alone("a_public_key_that_is_not_the_private_ones_is_refused", &[phase]);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    const WRONG: &str = "91827364";
    const OTHER: &str = "11223344";
    fn change_pin(from: &str, to: &str) {
        raw_with(from).2.set_pin(&AuthPin::from(from), &AuthPin::from(to)).unwrap();
    }
    fn refused_until_restart(scene: &Scene) {
        scene.keep("pin", WRONG);
        let open = || run(Pkcs11Keys::open(scene.config())).err();
        let first = open().expect("the PIN is wrong");
        let KeyError::Refused(words) = &first else { panic!("{first:?}") };
        assert!(words.contains("PinIncorrect") && words.contains(&scene.folder.join("pin").display().to_string()));
        assert!(!words.contains(WRONG), "{words}");
        // The wrong PIN becomes the right one. Whoever tried it again would notice.
        change_pin(PIN, WRONG);
        assert_eq!(open(), Some(first));
        // Another PIN is tried.
        change_pin(WRONG, OTHER);
        scene.keep("pin", OTHER);
        assert_eq!(open(), None);
        change_pin(OTHER, WRONG);
        scene.keep("pin", WRONG);
    }
    fn accepted_after_restart(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            keys.create("acme/1").await.unwrap();
        });
    }
    alone("a_wrong_pin_is_tried_once", &[refused_until_restart, accepted_after_restart]);
}

#[test]
fn what_is_not_there_is_named() {
    fn phase(scene: &Scene) {
        let open = |change: &dyn Fn(&mut Pkcs11Config)| {
            let mut config = scene.config();
            change(&mut config);
            run(Pkcs11Keys::open(config)).err()
        };
        let path = |path: &str| open(&|config| config.module = path.into());
        for (module, said) in [
            ("/nowhere/libpkcs11.so", "/nowhere/libpkcs11.so"),
            ("libsofthsm2.so", "not absolute"),
            ("/etc/passwd", "/etc/passwd"),
        ] {
            let error = path(module);
            assert!(matches!(&error, Some(KeyError::Config(words)) if words.contains(said)), "{error:?}");
        }
        let label = |label: &str| open(&|config| config.token = TokenChoice::Label(label.to_owned()));
        let error = label("second");
        let named = |words: &str| words.contains("\"second\"") && words.contains("\"first\"");
        assert!(matches!(&error, Some(KeyError::Unavailable(words)) if named(words)), "{error:?}");
        let error = open(&|config| config.token = TokenChoice::Slot(987_654));
        assert!(matches!(&error, Some(KeyError::Unavailable(words)) if words.contains("987654")), "{error:?}");
        let error = open(&|config| config.sessions = 0);
        assert!(matches!(error, Some(KeyError::Config(_))));
        let error = open(&|config| config.pin = SecretSource::Env("COUNTERSIGN_NO_PIN".to_owned()));
        assert!(matches!(&error, Some(KeyError::Config(words)) if words.contains("COUNTERSIGN_NO_PIN")), "{error:?}");
        // The twin: by label and by slot, what is there opens.
        assert_eq!(label("first"), None);
        let slot = raw().1.id();
        assert_eq!(open(&|config| config.token = TokenChoice::Slot(slot)), None);
        scene.make_token("first");
    }
    fn ambiguous(scene: &Scene) {
        let error = run(Pkcs11Keys::open(scene.config())).err();
        assert!(matches!(&error, Some(KeyError::Config(words)) if words.contains("more than one")), "{error:?}");
    }
    alone("what_is_not_there_is_named", &[phase, ambiguous]);
}

#[test]
fn a_lost_session_or_login_is_made_anew() {
    fn phase(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let made = keys.create("acme/1").await.unwrap();
            let check = async |what: &str| {
                let signature = keys.sign(&made.reference, &Digest::of(what.as_bytes())).await;
                assert!(made.public.verifies(what.as_bytes(), &signature.unwrap()), "{what}");
                assert_eq!(keys.create("acme/1").await.unwrap(), made, "{what}");
            };
            let session = raw().2;
            session.logout().unwrap();
            check("sign after logout").await;
            session.logout().unwrap();
            assert_eq!(keys.create("acme/1").await.unwrap(), made, "found after logout, not made anew");
            drop(session);
            Pkcs11::new(module()).unwrap().finalize().unwrap();
            check("after the module was finalised").await;
            // Its sessions are gone, and it is ready all the same.
            Pkcs11::new(module()).unwrap().finalize().unwrap();
            Pkcs11::new(module()).unwrap().initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
            check("after the module was started anew").await;
        });
        assert_eq!(private_keys(&raw().2).len(), 1);
    }
    alone("a_lost_session_or_login_is_made_anew", &[phase]);
}

#[test]
fn a_token_that_goes_away_is_not_taken_for_one_without_keys() {
    fn phase(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let made = keys.create("acme/1").await.unwrap();
            let (tokens, away) = (scene.folder.join("tokens"), scene.folder.join("away"));
            std::fs::rename(&tokens, &away).unwrap();
            std::fs::create_dir(&tokens).unwrap();
            // SoftHSM notices when it starts anew, as an HSM's client would.
            Pkcs11::new(module()).unwrap().finalize().unwrap();
            let signed = keys.sign(&made.reference, &Digest::of(b"text")).await;
            assert!(matches!(&signed, Err(KeyError::Unavailable(_))), "{signed:?}");
            let created = keys.create("acme/2").await;
            assert!(matches!(&created, Err(KeyError::Unavailable(_))), "{created:?}");
            std::fs::remove_dir_all(&tokens).unwrap();
            std::fs::rename(&away, &tokens).unwrap();
            Pkcs11::new(module()).unwrap().finalize().unwrap();
            let signature = keys.sign(&made.reference, &Digest::of(b"text")).await.unwrap();
            assert!(made.public.verifies(b"text", &signature));
        });
    }
    alone("a_token_that_goes_away_is_not_taken_for_one_without_keys", &[phase]);
}

#[test]
fn the_root_comes_back_only_as_it_was_wrapped() {
    const SECRET: [u8; 32] = *b"a root secret of thirty-two byte";
    fn wrapped(scene: &Scene) {
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            let (one, two) = (keys.wrap(&SECRET).await.unwrap(), keys.wrap(&SECRET).await.unwrap());
            assert_ne!(one, two);
            for wrapped in [&one, &two] {
                assert_eq!(*keys.unwrap(wrapped).await.unwrap(), SECRET);
            }
            for at in 0..one.len() {
                let mut changed = one.clone();
                changed[at] ^= 1;
                let error = keys.unwrap(&changed).await.unwrap_err();
                assert!(!error.is_transient(), "byte {at}: {error}");
            }
            assert_eq!(*keys.unwrap(&one).await.unwrap(), SECRET);
            for length in [0, 1, one.len() - 1] {
                assert!(matches!(keys.unwrap(&one[..length]).await, Err(KeyError::Malformed(_))));
            }
            let longer = [&one[..], &[0]].concat();
            assert!(matches!(keys.unwrap(&longer).await, Err(KeyError::Malformed(_))));
            scene.keep("wrapped", &hex::encode(one));
        });
        let (_, _, session) = raw();
        assert_eq!(session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]).unwrap().len(), 1);
        scene.make_token("second");
    }
    fn unwrapped(scene: &Scene) {
        let wrapped = hex::decode(scene.kept("wrapped")).unwrap();
        run(async {
            let keys = Pkcs11Keys::open(scene.config()).await.unwrap();
            assert_eq!(*keys.unwrap(&wrapped).await.unwrap(), SECRET);
            let mut config = scene.config();
            config.token = TokenChoice::Label("second".to_owned());
            let other = Pkcs11Keys::open(config).await.unwrap();
            assert!(matches!(other.unwrap(&wrapped).await, Err(KeyError::NotFound(_))));
        });
    }
    alone("the_root_comes_back_only_as_it_was_wrapped", &[wrapped, unwrapped]);
}

#[test]
fn many_at_once_share_few_sessions() {
    fn phase(scene: &Scene) {
        run(async {
            let mut config = scene.config();
            (config.sessions, config.timeout) = (2, Duration::from_secs(60));
            let keys = std::sync::Arc::new(Pkcs11Keys::open(config).await.unwrap());
            let create = || {
                let keys = keys.clone();
                tokio::spawn(async move { keys.create("acme/1").await.unwrap() })
            };
            let made = futures(std::iter::repeat_with(create).take(8)).await;
            assert!(made.iter().all(|one| *one == made[0]));
            let sign = |number: u32| {
                let (keys, reference) = (keys.clone(), made[0].reference.clone());
                tokio::spawn(async move { keys.sign(&reference, &Digest::of(&number.to_be_bytes())).await.unwrap() })
            };
            let signatures = futures((0..64).map(sign)).await;
            for (number, signature) in (0_u32..).zip(&signatures) {
                assert!(made[0].public.verifies(&number.to_be_bytes(), signature));
            }
        });
        assert_eq!(private_keys(&raw().2).len(), 1);
    }
    alone("many_at_once_share_few_sessions", &[phase]);
}

async fn futures<T>(tasks: impl Iterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut done = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        done.push(task.await.unwrap());
    }
    done
}

#[test]
fn a_token_that_hangs_costs_no_more_than_the_deadline() {
    fn phase(scene: &Scene) {
        run(async {
            let patient = Pkcs11Keys::open(Pkcs11Config { timeout: Duration::from_secs(60), ..scene.config() });
            let patient = patient.await.unwrap();
            let before = patient.create("acme/1").await.unwrap();
            let hasty = Pkcs11Config { sessions: 2, timeout: Duration::from_millis(500), ..scene.config() };
            let hasty = Pkcs11Keys::open(hasty).await.unwrap();
            // Writing to a token waits for this lock.
            let holder = hold_lock(&lock_file(&scene.folder.join("tokens")));
            for _ in 0..4 {
                let started = Instant::now();
                let late = hasty.create("acme/2").await;
                assert!(matches!(&late, Err(KeyError::Unavailable(_))), "{late:?}");
                assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
            }
            drop(holder);
            // What the one call that got through had begun comes to its end, and is found.
            let begun = async {
                while private_keys(&raw().2).len() < 2 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), begun).await.unwrap();
            let made = patient.create("acme/2").await.unwrap();
            assert_eq!(patient.create("acme/2").await.unwrap(), made);
            assert_eq!(patient.create("acme/1").await.unwrap(), before);
        });
        assert_eq!(private_keys(&raw().2).len(), 2);
    }
    alone("a_token_that_hangs_costs_no_more_than_the_deadline", &[phase]);
}

fn lock_file(tokens: &Path) -> PathBuf {
    let token = std::fs::read_dir(tokens).unwrap().next().unwrap().unwrap().path();
    token.join("generation")
}

/// Another process that has locked the file by the time this returns.
fn hold_lock(file: &Path) -> Holder {
    use std::io::BufRead as _;
    let program = "import fcntl, sys, time\nf = open(sys.argv[1], 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX)\n\
        print('held', flush=True)\ntime.sleep(60)";
    let mut python = Command::new("python3");
    python.args(["-c", program]).arg(file).stdout(std::process::Stdio::piped());
    let mut child = python.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    Holder(child)
}

struct Holder(std::process::Child);

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
