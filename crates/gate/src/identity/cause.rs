//! Why a credential was refused. The names are what the aggregates count; the advice says what to do and nothing of the key.

use countersign_domain::{Refusal, RefusalKind};

/// Seconds after which asking again makes sense while an issuer's keys cannot be had.
const RETRY_SECONDS: u64 = 30;

/// Why a credential was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Malformed,
    Algorithm,
    TokenType,
    Issuer,
    Key,
    KeysAway,
    Signature,
    Audience,
    Expired,
    NotYetValid,
    Claims,
    Workspace,
    Binding,
}

impl Cause {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cause::Malformed => "malformed",
            Cause::Algorithm => "algorithm",
            Cause::TokenType => "token-type",
            Cause::Issuer => "issuer",
            Cause::Key => "key",
            Cause::KeysAway => "issuer-away",
            Cause::Signature => "signature",
            Cause::Audience => "audience",
            Cause::Expired => "expired",
            Cause::NotYetValid => "not-yet-valid",
            Cause::Claims => "claims",
            Cause::Workspace => "workspace",
            Cause::Binding => "binding",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Cause::Malformed => "the bearer token is not a JWT",
            Cause::Algorithm => "the token's algorithm is not accepted from this issuer; ES256 is a good one",
            Cause::TokenType => "this is not an access token (typ); ID tokens and others are not accepted",
            Cause::Issuer => "the token's issuer is not configured here",
            Cause::Key => "the token's key (kid) is not in its issuer's JWKS",
            Cause::KeysAway => {
                "the issuer's keys cannot be fetched right now, so nothing of it can be believed; try again"
            }
            Cause::Signature => "the token's signature does not verify",
            Cause::Audience => "the token is not meant for this service (aud)",
            Cause::Expired => "the token has expired; get a new one",
            Cause::NotYetValid => "the token is not valid yet (nbf, iat)",
            Cause::Claims => "the token lacks a claim that is needed here, or one has the wrong form",
            Cause::Workspace => "this issuer may not speak for the workspace that the token names",
            Cause::Binding => "the token is bound to a key (cnf) that this connection does not prove",
        }
    }

    pub(crate) fn refusal(self) -> Refusal {
        // It is not the caller's fault that its issuer is away, and a new token would not help.
        let kind = if self == Cause::KeysAway { RefusalKind::Unavailable } else { RefusalKind::Unauthenticated };
        let mut refusal = Refusal::new(kind, self.advice()).with("cause", self.name());
        refusal.retry_after = (self == Cause::KeysAway).then_some(RETRY_SECONDS);
        refusal
    }
}
