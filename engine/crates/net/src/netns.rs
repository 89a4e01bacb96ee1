//! Running a closure inside another network namespace.
//!
//! A namespace belongs to a *thread*, so a closure given here must be synchronous: it makes a socket and returns.
//! The socket stays in the namespace it was made in, whatever the thread does next.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use socket2::{Domain, Socket, Type};

/// Of `asm-generic/socket.h`.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A network namespace held open by a descriptor.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    inode: u64,
}

impl Netns {
    /// Take over a descriptor of a network namespace.
    ///
    /// # Errors
    /// When the descriptor cannot be examined.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let inode = file.metadata()?.ino();
        Ok(Self { fd: file.into(), inode })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::new(File::open("/proc/thread-self/ns/net")?.into())
    }

    /// Inode number: two handles with the same number are the same namespace.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// The cookie by which the kernel's BPF programs name this namespace (`SO_NETNS_COOKIE`).
    ///
    /// # Errors
    /// It cannot be entered, or the kernel is older than 5.14.
    pub fn cookie(&self, home: &Self) -> io::Result<u64> {
        let socket = self.run(home, || Socket::new(Domain::IPV4, Type::DGRAM, None))?;
        let mut cookie = 0_u64;
        let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
        // SAFETY: the pointers are of values that outlive the call, and the length is that of the first.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
    }

    /// Run `f` inside this namespace and come back to `home`.
    ///
    /// # Panics
    /// Aborts the process when the thread cannot come back: going on would open sockets in the wrong namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered (it needs `CAP_SYS_ADMIN`), or the error of `f`.
    pub fn run<T>(&self, home: &Self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.inode == home.inode {
            return f();
        }
        enter(self.fd.as_fd())?;
        let result = f();
        if enter(home.fd.as_fd()).is_err() {
            std::process::abort();
        }
        result
    }
}

fn enter(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor that is open for the duration of the borrow and touches no memory of ours.
    match unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
