//! How much one report may cost. Trusted roots come from callers too, and a large one could pair a bundle's few signatures with
//! thousands of keys.

use super::{Failure, fail};
use crate::report::Code;

/// Most signatures that are verified for one report, besides the one that it is about. The largest honest bundle (8 stamps,
/// 8 log entries with promises, a certificate with its SCTs, chains of 3) needs fewer than 50.
const MAX_SIGNATURES: usize = 64;

/// What is left of it.
#[derive(Debug)]
pub(super) struct Work(usize);

impl Default for Work {
    fn default() -> Self {
        Self(MAX_SIGNATURES)
    }
}

impl Work {
    /// Counts a signature that is about to be verified.
    pub(super) fn spend(&mut self) -> Result<(), Failure> {
        let Some(left) = self.0.checked_sub(1) else {
            let detail = format!("to go on, more than {MAX_SIGNATURES} signatures would have to be verified");
            return fail(Code::TooManySignatures, detail);
        };
        self.0 = left;
        Ok(())
    }
}
