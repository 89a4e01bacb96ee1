//! The error of this crate.

use std::error::Error;

/// The kernel refused a program, a map, or to say what is loaded. The text ends with its reason.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// A program was not loaded.
    #[error("the kernel does not load {object}: {reason}")]
    NotLoaded {
        /// The object, as its file is named.
        object: &'static str,
        /// Why.
        reason: String,
    },
    /// Loaded programs and their maps cannot be read.
    #[error("loaded BPF programs cannot be read: {reason}")]
    Unreadable {
        /// Why.
        reason: String,
    },
}

/// Join an error and its sources: the kernel's reason is the innermost.
pub(crate) fn reason(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
