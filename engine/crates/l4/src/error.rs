//! What a call into the engine may answer.

use std::io;

use culvert_core::Rejection;
use culvert_worker::PoolError;

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
    /// The kernel lacks something that the engine cannot do without.
    #[error("{what}: {source}")]
    KernelUnsupported {
        /// What is missing.
        what: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// A queue is full, or the process has no descriptor left; try again later.
    #[error("the engine is busy: {0}")]
    Busy(String),
    /// The engine has been closed.
    #[error("the engine is closed")]
    Closed,
}

impl From<PoolError> for EngineError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Busy => Self::Busy("a queue is full".to_owned()),
            PoolError::Namespace(source) => Self::Busy(format!("cannot keep the namespace: {source}")),
        }
    }
}
