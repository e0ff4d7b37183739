//! A node's home in a directory of its own: configuration, manifests, policies, and a test issuer that it trusts.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::issuer::{Claims, Issuer};

/// The `iss` of the test issuer.
pub const ISSUER: &str = "https://issuer.test";

/// A home on disk. It stays when dropped: a failing run is read from it.
#[derive(Debug, Clone)]
pub struct Home {
    directory: PathBuf,
    address: SocketAddr,
    issuer: Issuer,
}

impl Home {
    /// A fresh home in `directory`, which is emptied, for a node on a free loopback port. `extra` is TOML for
    /// its configuration: keys of the top level first, then tables.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn create(directory: &Path, extra: &str) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("emptying {}", directory.display()))?;
        }
        for part in ["manifests", "policies/access", "policies/approval"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let directory = directory.canonicalize()?;
        let home = Self { address: free_address()?, issuer: Issuer::new(ISSUER, 7), directory };
        let jwks = home.directory.join("jwks.json");
        fs::write(&jwks, home.issuer.jwks())?;
        let config = format!(
            "listen = \"{}\"\n{extra}\n[[issuers]]\nissuer = \"{ISSUER}\"\naudience = \"countersign\"\njwks_file = \"{}\"\n\
             workspaces = [\"*\"]\nnode_roles = [\"operator\", \"auditor\"]\n",
            home.address,
            jwks.display()
        );
        fs::write(home.directory.join("countersign.toml"), config)?;
        Ok(home)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its node listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The issuer that its node trusts.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Writes `manifests/NAME.yaml`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn manifest(&self, name: &str, yaml: &str) -> Result<()> {
        Ok(fs::write(self.directory.join(format!("manifests/{name}.yaml")), yaml)?)
    }

    /// Writes `policies/access/NAME.cedar`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn access(&self, name: &str, cedar: &str) -> Result<()> {
        Ok(fs::write(self.directory.join(format!("policies/access/{name}.cedar")), cedar)?)
    }

    /// Writes `policies/approval/NAME.cedar`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn approval(&self, name: &str, cedar: &str) -> Result<()> {
        Ok(fs::write(self.directory.join(format!("policies/approval/{name}.cedar")), cedar)?)
    }

    /// A token of an agent that acts for nobody but itself.
    pub fn agent(&self, id: &str, roles: &[&str]) -> String {
        self.issuer.token(&Claims::agent(id, roles))
    }

    /// A token of a person.
    pub fn person(&self, id: &str, roles: &[&str]) -> String {
        self.issuer.token(&Claims::person(id, roles))
    }

    /// A token of the operator, who may also read the audit trail.
    pub fn operator(&self) -> String {
        self.person("olga", &["operator", "auditor"])
    }
}

/// A loopback address that nobody listens on just now.
///
/// Its port is below those that the system gives to outgoing connections and to listeners on port 0: between this and its
/// use nobody else is given it.
///
/// # Errors
/// If there is none.
pub fn free_address() -> Result<SocketAddr> {
    // Each process begins elsewhere, and takes the ports in order from there.
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(RandomState::new().build_hasher().finish() >> 1));
    let range = 10_000..32_000_u16;
    for _ in range.clone() {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % u64::from(range.end - range.start);
        let port = range.start + u16::try_from(offset)?;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no port of {range:?} is free")
}
