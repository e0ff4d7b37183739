//! Why there is no response, told apart by what is known of the request.

/// Why there is no (whole) response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// The client could not be set up.
    #[error("the network client cannot be set up: {0}")]
    Setup(String),
    /// The rule of the purpose forbids it; nothing was sent.
    #[error("refused: {0}")]
    Refused(String),
    /// The name could not be resolved, or no connection came about; nothing was sent.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The deadline passed.
    #[error("no answer before the deadline")]
    Timeout {
        /// Whether any byte of the request may have been sent.
        sent: bool,
    },
    /// The connection broke after the request was, or may have been, sent.
    #[error("the connection broke: {0}")]
    Lost(String),
    /// The body is longer than the caller accepts.
    #[error("the response is longer than {limit} bytes")]
    TooLarge {
        /// Bytes accepted.
        limit: usize,
    },
}

impl EgressError {
    /// Whether it is certain that nothing of the request was sent.
    pub fn not_sent(&self) -> bool {
        match self {
            EgressError::Setup(_) | EgressError::Refused(_) | EgressError::Unreachable(_) => true,
            EgressError::Timeout { sent } => !sent,
            EgressError::Lost(_) | EgressError::TooLarge { .. } => false,
        }
    }
}

/// An error and its causes in one line, without repeating what a cause's wrapper already says.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}
