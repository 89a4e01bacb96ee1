//! Events of state from the engine to its host, behind one descriptor: few (workloads, identities), and kept until drained.

use std::os::fd::RawFd;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::proto::engine as wire;
use culvert_net::wakeup::Wakeup;
use parking_lot::Mutex;
use wire::event::Kind;

/// See the module.
#[derive(Debug)]
pub struct Events {
    wakeup: Arc<Wakeup>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    events: Vec<wire::Event>,
    signalled: bool,
}

impl Events {
    /// No event is pending.
    ///
    /// # Errors
    /// An eventfd cannot be created.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { wakeup: Arc::new(Wakeup::new()?), pending: Mutex::default() })
    }

    /// Readable when something is pending.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.wakeup.fd()
    }

    /// Signals the same descriptor, for what else the host takes when it is woken.
    #[must_use]
    pub const fn wakeup(&self) -> &Arc<Wakeup> {
        &self.wakeup
    }

    /// Take all events that are pending. The descriptor is readable again once there is something new, also for others that
    /// signal it: take what they have after this call.
    pub fn drain(&self) -> Vec<wire::Event> {
        self.wakeup.reset();
        let mut pending = self.pending.lock();
        pending.signalled = false;
        std::mem::take(&mut pending.events)
    }

    pub(crate) fn certificate_wanted(&self, identity: &Identity) {
        self.push(Kind::CertificateWanted(wire::CertificateWanted { identity: identity.to_string() }));
    }

    pub(crate) fn certificate_released(&self, identity: &Identity) {
        self.push(Kind::CertificateReleased(wire::CertificateReleased { identity: identity.to_string() }));
    }

    pub(crate) fn workload_started(&self, uid: &str, error: Option<String>) {
        let error = error.unwrap_or_default();
        self.push(Kind::WorkloadStarted(wire::WorkloadStarted { uid: uid.to_owned(), error }));
    }

    pub(crate) fn workload_stopped(&self, uid: &str) {
        self.push(Kind::WorkloadStopped(wire::WorkloadStopped { uid: uid.to_owned() }));
    }

    pub(crate) fn fatal(&self, reason: String) {
        self.push(Kind::Fatal(wire::Fatal { reason }));
    }

    fn push(&self, kind: Kind) {
        let mut pending = self.pending.lock();
        pending.events.push(wire::Event { kind: Some(kind) });
        self.signal(&mut pending);
    }

    /// One system call a batch, not one an event.
    fn signal(&self, pending: &mut Pending) {
        if !pending.signalled {
            pending.signalled = true;
            self.wakeup.signal();
        }
    }
}
