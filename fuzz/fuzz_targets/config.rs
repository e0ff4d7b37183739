//! Configuration files: read or refused with a place and words; a node that listens for others never trusts the development issuer.
#![no_main]

use countersign_server::config::is_loopback;
use countersign_server::fuzzing::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config(text) {
        Ok(config) => {
            assert!(is_loopback(&config.listen) || !config.development_issuer);
            assert!(config.development_issuer || !config.issuers.is_empty());
            assert!(config.approval_wait.as_secs() <= 50);
            drop(config.url());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
