//! What a protocol provides so that its pods are served.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use culvert_net::netns::Netns;
use culvert_net::socket::SocketFactory;

use crate::drain::PodLife;
use crate::limits::PodInfo;

/// A protocol; shared by all threads.
pub trait Protocol: Send + Sync + 'static {
    /// Its part on one thread.
    type Worker: Worker;

    /// Begin on thread `number`, counted from 0, which is in the namespace `home`. Called on that thread, within its runtime.
    fn begin(self: Arc<Self>, number: usize, home: Netns) -> Self::Worker;
}

/// A protocol on one thread.
pub trait Worker: 'static {
    /// A pod that is served.
    type Pod: Pod;

    /// Serve a pod: open its listeners in its namespace.
    ///
    /// # Errors
    /// A listener cannot be opened.
    fn serve(&self, pod: Arc<PodInfo>, sockets: SocketFactory) -> io::Result<Rc<Self::Pod>>;

    /// Called every few seconds while the thread serves a pod.
    fn tick(&self) {}
}

/// A pod that is served on one thread.
pub trait Pod: 'static {
    /// Its phase, its tasks and what it has open.
    fn life(&self) -> &PodLife;

    /// Release what has been idle for long. Called every few seconds.
    fn release_idle(&self) {}
}
