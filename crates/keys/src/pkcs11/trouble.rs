//! What a module's return codes (PKCS #11 2.40 section 5.1) mean here.

use cryptoki::error::{Error, RvError};

use crate::KeyError;

/// Why work on a session did not come to its end.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The module said so.
    Module(Error),
    /// The session, the login or the token is gone: with new ones, the work may succeed.
    Gone(String),
    /// It is final, and the session is as it was.
    Final(KeyError),
    /// It is final, and the session may be in the middle of something.
    Broken(KeyError),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if is_gone(&error) { Self::Gone(words(&error)) } else { Self::Module(error) }
    }
}

impl From<KeyError> for Trouble {
    fn from(error: KeyError) -> Self {
        Self::Final(error)
    }
}

impl Trouble {
    /// For the operator. `token` names it.
    pub(super) fn into_error(self, token: &str) -> KeyError {
        match self {
            Self::Final(error) | Self::Broken(error) => error,
            Self::Gone(words) => KeyError::Unavailable(format!("{token} went away: {words}")),
            Self::Module(error) if is_passing(&error) => {
                KeyError::Unavailable(format!("{token} could not do it now: {}", words(&error)))
            }
            Self::Module(error) => KeyError::Refused(format!("{token} answered {}{}", words(&error), hint(&error))),
        }
    }
}

/// The function and the code, which are what an operator can look up; the library's prose is long.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{code:?} to C_{function:?}"),
        other => format!("{other:.300}"),
    }
}

/// What a new session on the token, wherever it is by then, may cure.
fn is_gone(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::DeviceRemoved
                | RvError::DeviceError
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::SlotIdInvalid
                | RvError::SessionClosed
                | RvError::SessionHandleInvalid
                | RvError::UserNotLoggedIn
                | RvError::ObjectHandleInvalid
                | RvError::KeyHandleInvalid
                | RvError::CryptokiNotInitialized,
            _
        )
    )
}

/// What may be otherwise in a while.
fn is_passing(error: &Error) -> bool {
    let unspecific = matches!(error, Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed, _));
    unspecific || is_short_of_something(error)
}

/// Memory, sessions, time: nothing that the work itself brought about.
pub(super) fn is_short_of_something(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::HostMemory
                | RvError::DeviceMemory
                | RvError::FunctionCanceled
                | RvError::SessionCount
                | RvError::OperationActive,
            _
        )
    )
}

fn hint(error: &Error) -> &'static str {
    let Error::Pkcs11(code, _) = error else { return "" };
    match code {
        RvError::MechanismInvalid | RvError::CurveNotSupported | RvError::FunctionNotSupported => {
            "; it must offer CKM_EC_KEY_PAIR_GEN and CKM_ECDSA on P-256, and for the root CKM_AES_KEY_GEN and CKM_AES_GCM"
        }
        RvError::TokenWriteProtected | RvError::SessionReadOnly => "; it is write-protected",
        RvError::KeyFunctionNotPermitted => "; the key's attributes do not permit this use",
        RvError::TemplateInconsistent | RvError::AttributeValueInvalid | RvError::AttributeTypeInvalid => {
            "; it does not make keys with the attributes that are needed (sensitive, not extractable)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn return_codes_say_whether_waiting_helps() {
        let error = |code| Trouble::from(Error::Pkcs11(code, Function::Sign)).into_error("the token \"t\"");
        for code in
            [RvError::DeviceRemoved, RvError::SessionHandleInvalid, RvError::GeneralError, RvError::SessionCount]
        {
            assert!(error(code).is_transient(), "{code:?}");
        }
        for code in [RvError::MechanismInvalid, RvError::KeyFunctionNotPermitted, RvError::VendorDefined(0x8000_0001)] {
            let error = error(code);
            assert!(matches!(&error, KeyError::Refused(words) if words.contains("the token \"t\"")), "{error}");
        }
    }
}
