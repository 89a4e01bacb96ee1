//! Waking an event loop that watches descriptors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An eventfd: readable from [`Wakeup::signal`] until [`Wakeup::reset`].
#[derive(Debug)]
pub struct Wakeup(File);

impl Wakeup {
    /// Make one.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer; its result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// The descriptor to watch.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Make the descriptor readable.
    pub fn signal(&self) {
        // Fails only when the counter would overflow, and then the descriptor is readable anyway.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Make the descriptor unreadable.
    pub fn reset(&self) {
        // "Nothing to read" is the state that is wanted.
        let _ = (&self.0).read(&mut [0; 8]);
    }
}
