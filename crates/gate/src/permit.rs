//! The permit: the gate's proof, in the type system, that a call may be dispatched.
//!
//! Its fields are private and its one constructor is visible to this crate alone, so no other crate can make one; it is not
//! `Clone`, and [`Upstream::dispatch`](crate::upstream::Upstream::dispatch) consumes it, so it is used once.

use std::sync::Arc;
use std::time::Instant;

use countersign_domain::{Principal, ToolRef};
use countersign_proof::digest::Digest;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Leave to execute one call, once, with exactly these bytes, by this definition, until this moment.
#[derive(Debug)]
pub struct Permit {
    call: Uuid,
    principal: Arc<Principal>,
    tool: ToolRef,
    arguments: Box<RawValue>,
    pin: Digest,
    deadline: Instant,
    correlation: String,
}

impl Permit {
    pub(crate) fn grant(
        call: Uuid,
        principal: Arc<Principal>,
        tool: ToolRef,
        arguments: Box<RawValue>,
        pin: Digest,
        deadline: Instant,
        correlation: String,
    ) -> Self {
        Self { call, principal, tool, arguments, pin, deadline, correlation }
    }

    /// The call's id.
    pub fn call(&self) -> Uuid {
        self.call
    }
    /// Who calls. The caller's own credential is not part of it: nothing that reaches an upstream could be one.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }
    /// The tool to call.
    pub fn tool(&self) -> &ToolRef {
        &self.tool
    }
    /// What is asked of the upstream.
    pub fn operation(&self) -> countersign_domain::Operation<'_> {
        countersign_domain::Operation::of(&self.tool.tool)
    }
    /// The arguments: a JSON object, byte for byte what was validated, decided upon and agreed to.
    pub fn arguments(&self) -> &RawValue {
        &self.arguments
    }
    /// The accepted definition's pin.
    pub fn pin(&self) -> &Digest {
        &self.pin
    }
    /// When to give up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
    /// For logs and traces across systems.
    pub fn correlation(&self) -> &str {
        &self.correlation
    }
}

/// A permit that nobody decided upon, for the tests of upstreams.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub fn test_permit(
    caller: Principal,
    tool: ToolRef,
    arguments: Box<RawValue>,
    pin: Digest,
    deadline: Instant,
) -> Permit {
    Permit::grant(Uuid::now_v7(), Arc::new(caller), tool, arguments, pin, deadline, "test".to_owned())
}
