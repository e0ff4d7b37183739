//! A timestamp authority that is not ours: `openssl ts` answers, behind a small HTTP service, well or badly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::service::{Asked, Reply, Service};

const CONFIG: &str = "\
[granting]
serial = serial
signer_cert = leaf.pem
signer_key = leaf.key
certs = root.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
tsa_name = no
ess_cert_id_alg = sha256
[refusing]
serial = serial
signer_cert = leaf.pem
signer_key = leaf.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha512
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, serverAuth
[req]
distinguished_name = name
[name]
";

/// How it answers.
#[derive(Debug, Clone, Default)]
pub enum Behaviour {
    /// As it should.
    #[default]
    Good,
    /// With a stamp over the right bytes, for a nonce of its own.
    OtherNonce,
    /// With a stamp over other bytes.
    OtherImprint,
    /// With a refusal that is a well-formed answer.
    Refusal,
    /// With these bytes, as an answer.
    Bytes(Vec<u8>),
    /// With this status.
    Status(u16),
    /// Not at all, for this long.
    Silence(Duration),
    /// By ending the connection.
    Close,
}

/// Its certificates and keys, in a directory.
#[derive(Debug, Clone)]
pub struct Authority(PathBuf);

impl Authority {
    /// Makes one with keys of OpenSSL's `genpkey` arguments, such as `-algorithm EC -pkeyopt ec_paramgen_curve:P-384`.
    ///
    /// # Errors
    /// If OpenSSL is missing or fails.
    pub fn create(directory: &Path, key: &str) -> Result<Self> {
        Self::with_leaf(directory, key, "leaf")
    }

    /// The same, whose certificate is for something else.
    ///
    /// # Errors
    /// As above.
    pub fn for_servers(directory: &Path, key: &str) -> Result<Self> {
        Self::with_leaf(directory, key, "server")
    }

    fn with_leaf(directory: &Path, key: &str, extensions: &str) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let this = Self(directory.to_owned());
        fs::write(directory.join("openssl.cnf"), CONFIG)?;
        fs::write(directory.join("serial"), "01\n")?;
        for name in ["root", "leaf"] {
            this.openssl(&format!("genpkey {key} -out {name}.key"))?;
        }
        let subject = |name: &str| format!("/O=Elsewhere/CN={name}");
        let root = "req -new -x509 -key root.key -days 30 -config openssl.cnf -extensions root -out root.pem -subj";
        this.openssl(&format!("{root} {}", subject("Root")))?;
        let request = "req -new -key leaf.key -config openssl.cnf -out leaf.csr -subj";
        this.openssl(&format!("{request} {}", subject("Stamps")))?;
        let sign = "x509 -req -in leaf.csr -CA root.pem -CAkey root.key -set_serial 4711 -days 30 -out leaf.pem";
        this.openssl(&format!("{sign} -extfile openssl.cnf -extensions {extensions}"))?;
        let chain = [fs::read(directory.join("root.pem"))?, fs::read(directory.join("leaf.pem"))?].concat();
        fs::write(this.chain(), chain)?;
        Ok(this)
    }

    /// The file with its certificates.
    pub fn chain(&self) -> PathBuf {
        self.0.join("chain.pem")
    }

    /// The answer to a request, DER both.
    ///
    /// # Errors
    /// If OpenSSL fails.
    pub fn reply(&self, query: &[u8], section: &str) -> Result<Vec<u8>> {
        let name = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
        fs::write(self.0.join(format!("{name}.tsq")), query)?;
        let command = format!("ts -reply -config openssl.cnf -section {section} -queryfile {name}.tsq -out {name}.tsr");
        self.openssl(&command)?;
        Ok(fs::read(self.0.join(format!("{name}.tsr")))?)
    }

    /// A request of OpenSSL's own over a SHA-256, with a nonce of its own.
    fn query(&self, digest: &[u8]) -> Result<Vec<u8>> {
        let hexadecimal: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.openssl(&format!("ts -query -digest {hexadecimal} -sha256 -cert -out other.tsq"))?;
        Ok(fs::read(self.0.join("other.tsq"))?)
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(&self.0).stdin(Stdio::null());
        let output = command.output().context("openssl, which makes this authority, cannot be run")?;
        ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// The authority as a service.
pub struct Tsa {
    service: Service,
    authority: Authority,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Tsa {
    /// Starts one with P-384 keys in a directory.
    ///
    /// # Errors
    /// If OpenSSL is missing or fails.
    pub fn start(directory: &Path) -> Result<Self> {
        let authority = Authority::create(directory, "-algorithm EC -pkeyopt ec_paramgen_curve:P-384")?;
        let behaviour = Arc::<Mutex<Behaviour>>::default();
        let (how, by) = (Arc::clone(&behaviour), authority.clone());
        let service = Service::start(move |asked| {
            let how = how.lock().unwrap_or_else(PoisonError::into_inner);
            answer(&by, asked, &how).unwrap_or(Reply::Close)
        })?;
        Ok(Self { service, authority, behaviour })
    }

    /// Where it is asked.
    pub fn url(&self) -> String {
        format!("{}/stamp", self.service.url())
    }

    /// The file with its certificates.
    pub fn chain(&self) -> PathBuf {
        self.authority.chain()
    }

    /// From now on it answers so.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.service.asked().len()
    }
}

fn answer(authority: &Authority, asked: &Asked, how: &Behaviour) -> Result<Reply> {
    let reply = |body| Ok(Reply::Http { status: 200, content_type: "application/timestamp-reply", body });
    ensure!(asked.method == "POST" && asked.head.to_ascii_lowercase().contains("application/timestamp-query"));
    match how {
        Behaviour::Good => reply(authority.reply(&asked.body, "granting")?),
        Behaviour::Refusal => reply(authority.reply(&asked.body, "refusing")?),
        Behaviour::OtherNonce => {
            // The digest follows its tag and length.
            let at = asked.body.windows(2).position(|window| window == [4, 32]).context("no SHA-256")? + 2;
            let query = authority.query(asked.body.get(at..at + 32).context("cut short")?)?;
            reply(authority.reply(&query, "granting")?)
        }
        Behaviour::OtherImprint => {
            let query = authority.query(&[7; 32])?;
            reply(authority.reply(&query, "granting")?)
        }
        Behaviour::Bytes(bytes) => reply(bytes.clone()),
        Behaviour::Status(status) => Ok(Reply::Http { status: *status, content_type: "text/plain", body: Vec::new() }),
        Behaviour::Silence(time) => Ok(Reply::Silence(*time)),
        Behaviour::Close => Ok(Reply::Close),
    }
}
