//! What a call into the engine may answer.

use std::io;

/// One resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the resource, as the control plane calls it.
    pub name: String,
    /// The field at fault; may be empty.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Rejection {
    pub(crate) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { name: String::new(), field: field.to_owned(), reason: reason.into() }
    }

    pub(crate) fn of(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}: {}", self.name, self.reason),
            field => write!(f, "{}: {field}: {}", self.name, self.reason),
        }
    }
}

/// Why a call had no effect, or not its whole effect.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Some resources were refused; the others are in force, and of the refused ones the last good version is.
    #[error("{}", .rejected.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    ConfigRejected {
        /// Type of the resources.
        type_url: String,
        /// Each with its reason.
        rejected: Vec<Rejection>,
    },
    /// A socket could not be made in a workload's namespace.
    #[error("{what}: {source}")]
    BindFailed {
        /// Which.
        what: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The kernel lacks something that the engine cannot do without.
    #[error("{what}: {source}")]
    KernelUnsupported {
        /// What is missing.
        what: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// A queue is full; try again later.
    #[error("the engine is busy")]
    Busy,
    /// The engine has been closed.
    #[error("the engine is closed")]
    Closed,
    /// A thread of the engine has failed; the process should end.
    #[error("the engine has failed: {0}")]
    Failed(String),
}
