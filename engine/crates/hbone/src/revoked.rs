//! A tunnel's word to its streams that its peer has been revoked.

use std::cell::Cell;
use std::rc::Rc;

/// Set before a tunnel is closed for that reason, so that its streams end by it and not by what the closing looks like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Revoked(Rc<Cell<bool>>);

impl Revoked {
    pub(crate) fn set(&self) {
        self.0.set(true);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.get()
    }
}
