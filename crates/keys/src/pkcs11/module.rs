//! The modules of this process.
//!
//! `C_Initialize` and `C_Finalize` count for the whole process, and a module must not be initialised twice: whoever asks for the
//! same library gets the same context. It is never finalised, since nobody here can know who else still uses it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use crate::KeyError;

static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// The module at a path, loaded and initialised with the system's locks.
pub(super) fn load(path: &Path) -> Result<Pkcs11, KeyError> {
    let cannot = |why: &dyn std::fmt::Display| {
        let path = path.display();
        KeyError::Config(format!(
            "the PKCS#11 module {path} cannot be loaded ({why}); is it installed, and the path right?"
        ))
    };
    if !path.is_absolute() {
        return Err(cannot(&"the path is not absolute"));
    }
    // One file has one entry, however it is reached.
    let file = path.canonicalize().map_err(|error| cannot(&error))?;
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(&file) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(&file).map_err(|error| cannot(&error))?;
    initialize(&module).map_err(|error| cannot(&error))?;
    modules.insert(file, module.clone());
    Ok(module)
}

/// Initialises a module, unless it is.
pub(super) fn initialize(module: &Pkcs11) -> Result<(), Error> {
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(error),
    }
}
