//! A bounded number of sessions on blocking threads, opened and logged in when they are needed.
//!
//! The login belongs to the process and the token, not to a session: it ends with the last one. When anything of it is gone (the
//! token was pulled, an HSM restarted, somebody logged the process out), the sessions are dropped, the token is looked for anew, and
//! the work runs once more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use tokio::sync::Semaphore;

use super::objects::KeyId;
use super::trouble::{Trouble, words};
use super::{MAX_SESSIONS, Pkcs11Config, TokenChoice, module};
use crate::{KeyError, SecretText};

/// Most slots that are looked at.
const MAX_SLOTS: usize = 256;
/// Most handles that a session remembers.
const MAX_HANDLES: usize = 256;

/// A logged-in session, and where its keys are: handles are the module's and end with the session.
pub(super) struct Seat {
    pub(super) session: Session,
    handles: HashMap<KeyId, ObjectHandle>,
}

impl Seat {
    /// A private or secret key's handle, remembered.
    pub(super) fn handle(
        &mut self,
        id: &KeyId,
        find: impl FnOnce(&Self) -> Result<ObjectHandle, Trouble>,
    ) -> Result<ObjectHandle, Trouble> {
        if let Some(handle) = self.handles.get(id) {
            return Ok(*handle);
        }
        let handle = find(self)?;
        if self.handles.len() >= MAX_HANDLES {
            self.handles.clear();
        }
        self.handles.insert(id.clone(), handle);
        Ok(handle)
    }

    /// A search does not fail without a login: it finds nothing. Whoever found nothing asks this before saying so.
    pub(super) fn still_logged_in(&self) -> Result<(), Trouble> {
        match self.session.get_session_info()?.session_state() {
            SessionState::RwUser | SessionState::RoUser => Ok(()),
            SessionState::RoPublic | SessionState::RwPublic | SessionState::RwSecurityOfficer => {
                Err(Trouble::Gone("the login has ended".to_owned()))
            }
        }
    }
}

pub(super) struct Sessions {
    config: Pkcs11Config,
    pin: SecretText,
    /// As many as there may be sessions. A thread that hangs in the module keeps its permit.
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Seat>>,
}

/// A PIN that a token did not take.
struct RefusedPin {
    /// Label and serial number.
    token: (String, String),
    pin: SecretText,
    words: String,
}

/// Of this process. Tokens lock after a few wrong PINs, so none is tried twice; the lock is held while one is tried.
static REFUSED: Mutex<Vec<RefusedPin>> = Mutex::new(Vec::new());
/// Most refused PINs that are remembered; beyond, no further one is tried.
const MAX_REFUSED: usize = 64;

impl Sessions {
    pub(super) fn new(config: Pkcs11Config) -> Result<Self, KeyError> {
        if !(1..=MAX_SESSIONS).contains(&config.sessions) {
            return Err(KeyError::Config(format!("a token has 1 to {MAX_SESSIONS} sessions, not {}", config.sessions)));
        }
        let (pin, permits) = (config.pin.read()?, Arc::new(Semaphore::new(config.sessions)));
        Ok(Self { config, pin, permits, idle: Mutex::default() })
    }

    /// Runs work on a session, within the deadline. It may run twice; it must not mind.
    ///
    /// A call into the module cannot be interrupted: past the deadline its thread goes on, with its session, until the module
    /// returns. What it has made by then is there, and found by its label.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnMut(&mut Seat) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, KeyError> {
        let (sessions, deadline) = (Arc::clone(self), Instant::now() + self.config.timeout);
        let late = |what: &str| {
            let (token, seconds) = (self.token(), self.config.timeout.as_secs_f32());
            KeyError::Unavailable(format!("{token} did not answer within {seconds} s{what}"))
        };
        let permit = match tokio::time::timeout_at(deadline.into(), Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(late(&format!(": all {} sessions are busy", self.config.sessions))),
        };
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            sessions.work(work)
        });
        match tokio::time::timeout_at(deadline.into(), task).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(KeyError::Unavailable(format!("work on {} broke off", self.token()))),
            Err(_) => Err(late("")),
        }
    }

    fn work<T>(&self, mut work: impl FnMut(&mut Seat) -> Result<T, Trouble>) -> Result<T, KeyError> {
        // A statement of its own: the lock must not be held while the module works.
        let kept = self.idle().pop();
        let first = kept.map_or_else(|| self.open(), Ok).and_then(|seat| self.work_on(seat, &mut work));
        let done = match first {
            Err(Trouble::Gone(why)) => {
                tracing::debug!(token = self.token(), why, "looking for the token anew");
                // Before a new session is opened, which may get the number of an old one.
                self.idle().clear();
                self.open().and_then(|seat| self.work_on(seat, &mut work))
            }
            other => other,
        };
        done.map_err(|trouble| trouble.into_error(&self.token()))
    }

    /// After the module's errors a session may be in the middle of something: it does not come back.
    fn work_on<T>(&self, mut seat: Seat, work: &mut impl FnMut(&mut Seat) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let done = work(&mut seat);
        match done {
            Ok(_) | Err(Trouble::Final(_)) => self.idle().push(seat),
            Err(Trouble::Module(_) | Trouble::Gone(_) | Trouble::Broken(_)) => drop(seat),
        }
        done
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Seat>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Seat, Trouble> {
        let module = module::load(&self.config.module)?;
        // Somebody else in this process may have finalised it.
        module::initialize(&module)?;
        let (slot, info) = self.find_token(&module)?;
        let session = module.open_rw_session(slot)?;
        self.log_in(&session, &info)?;
        Ok(Seat { session, handles: HashMap::new() })
    }

    fn find_token(&self, module: &Pkcs11) -> Result<(Slot, TokenInfo), Trouble> {
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for slot in module.get_slots_with_token()?.into_iter().take(MAX_SLOTS) {
            // One that is pulled out meanwhile is not there.
            let Ok(info) = module.get_token_info(slot) else { continue };
            let chosen = match &self.config.token {
                TokenChoice::Label(label) => info.token_initialized() && info.label() == label,
                TokenChoice::Slot(number) => slot.id() == *number,
            };
            if chosen {
                found.push((slot, info));
            } else if info.token_initialized() && others.len() < 8 {
                others.push(format!("{:?} (slot {slot})", info.label()));
            }
        }
        let token = self.token();
        match (found.pop(), found.is_empty()) {
            (Some(chosen), true) => Ok(chosen),
            (Some(_), false) => Err(KeyError::Config(format!("there is more than one {token}; choose by slot")).into()),
            (None, _) => {
                let there = if others.is_empty() { "none at all".to_owned() } else { others.join(", ") };
                Err(KeyError::Unavailable(format!("{token} is not there; the module shows {there}")).into())
            }
        }
    }

    fn log_in(&self, session: &Session, info: &TokenInfo) -> Result<(), Trouble> {
        let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
        let token = (info.label().to_owned(), info.serial_number().to_owned());
        if let Some(known) = refused.iter().find(|known| known.token == token && known.pin == self.pin) {
            return Err(KeyError::Refused(known.words.clone()).into());
        }
        if let Some(why) = no_more_tries(info, refused.len()) {
            return Err(KeyError::Refused(format!("{}: {why}", self.token())).into());
        }
        let error = match session.login(UserType::User, Some(&AuthPin::from(self.pin.expose()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => return Ok(()),
            Err(error) => error,
        };
        let Some(why) = pin_trouble(&error) else { return Err(error.into()) };
        let (source, said) = (&self.config.pin, words(&error));
        let words = format!(
            "the PIN in {source} {why} ({} answered {said}); it is not tried again before a restart, since tokens lock",
            self.token()
        );
        refused.push(RefusedPin { token, pin: self.pin.clone(), words: words.clone() });
        Err(KeyError::Refused(words).into())
    }

    fn token(&self) -> String {
        match &self.config.token {
            TokenChoice::Label(label) => format!("the token {label:?}"),
            TokenChoice::Slot(number) => format!("the token in slot {number}"),
        }
    }
}

/// Why no PIN is tried at all.
fn no_more_tries(info: &TokenInfo, refused: usize) -> Option<&'static str> {
    if info.user_pin_locked() {
        return Some("its user's PIN is locked; its security officer must set a new one");
    }
    if info.user_pin_final_try() {
        return Some("one more wrong PIN would lock it, so none is tried; log in once with its own tools");
    }
    (refused >= MAX_REFUSED).then_some("too many wrong PINs were tried by this process; restart it")
}

/// What is wrong with the PIN, if it is the PIN.
fn pin_trouble(error: &Error) -> Option<&'static str> {
    let Error::Pkcs11(code, _) = error else { return None };
    match code {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => Some("is not the token's"),
        RvError::PinLocked => Some("was not looked at: the token has locked its user's PIN"),
        RvError::PinExpired => Some("has expired"),
        RvError::UserPinNotInitialized => Some("cannot be the token's, which has none yet"),
        _ => None,
    }
}
