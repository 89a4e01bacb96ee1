//! The captured pods of this process, as the kernel knows them: by the cookie of their namespace.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use culvert_bpf::direct::DirectConnection;
use culvert_mesh::{Store, Workload};
use culvert_net::netns::Netns;
use culvert_net::sock_diag::{SockDiag, TcpSocket};
use culvert_worker::PodInfo;

/// One pod.
#[derive(Debug)]
pub(super) struct LocalPod {
    pub(super) info: Arc<PodInfo>,
    pub(super) cookie: u64,
    /// Whether it is served. One that is not has no new direct connections; those that are open go on.
    pub(super) served: bool,
    namespace: Netns,
    diag: OnceLock<SockDiag>,
}

impl LocalPod {
    /// The pod as the control plane describes it.
    pub(super) fn workload<'a>(&self, store: &'a Store) -> Option<&'a Arc<Workload>> {
        let PodInfo { namespace, name, service_account, .. } = &*self.info;
        store.workload_named(namespace, name, service_account)
    }

    /// The sockets of its namespace.
    pub(super) fn sockets(&self) -> io::Result<&SockDiag> {
        if let Some(diag) = self.diag.get() {
            return Ok(diag);
        }
        let opened = SockDiag::open(&self.namespace, &Netns::current()?)?;
        Ok(self.diag.get_or_init(|| opened))
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct LocalPods {
    by_cookie: HashMap<u64, LocalPod>,
    by_uid: HashMap<Arc<str>, u64>,
    /// By namespace and name; of pods that follow each other, the latest.
    by_name: HashMap<(Arc<str>, Arc<str>), u64>,
}

impl LocalPods {
    /// Add a pod that is served from now on.
    pub(super) fn add(&mut self, info: Arc<PodInfo>, namespace: Netns) -> io::Result<()> {
        let cookie = namespace.cookie(&Netns::current()?)?;
        self.by_uid.insert(info.uid.clone(), cookie);
        self.by_name.insert((info.namespace.clone(), info.name.clone()), cookie);
        let pod = LocalPod { info, cookie, served: true, namespace, diag: OnceLock::new() };
        self.by_cookie.insert(cookie, pod);
        Ok(())
    }

    /// Whether a pod is served.
    pub(super) fn serves_any(&self) -> bool {
        !self.by_uid.is_empty()
    }

    /// Serve a pod no longer; it is kept until [`LocalPods::retain`] while it has direct connections.
    pub(super) fn remove(&mut self, uid: &str) -> Option<u64> {
        let cookie = self.by_uid.remove(uid)?;
        if let Some(pod) = self.by_cookie.get_mut(&cookie) {
            pod.served = false;
            self.by_name.retain(|_, latest| *latest != cookie);
        }
        Some(cookie)
    }

    /// Forget pods that are not served, unless they are in `used`.
    pub(super) fn retain(&mut self, used: impl Fn(u64) -> bool) {
        self.by_cookie.retain(|cookie, pod| pod.served || used(*cookie));
    }

    pub(super) fn with_cookie(&self, cookie: u64) -> Option<&LocalPod> {
        self.by_cookie.get(&cookie)
    }

    pub(super) fn with_uid(&self, uid: &str) -> Option<&LocalPod> {
        self.with_cookie(*self.by_uid.get(uid)?)
    }

    /// The pod that is served and that the control plane describes so.
    pub(super) fn of_workload(&self, workload: &Workload) -> Option<&LocalPod> {
        let cookie = self.by_name.get(&(workload.namespace.clone(), workload.name.clone()))?;
        let is_its = |pod: &&LocalPod| *pod.info.service_account == *workload.identity.service_account();
        self.with_cookie(*cookie).filter(is_its)
    }
}

/// The only address of a workload that is of the family of `like`; with more, the kernel may choose another one.
pub(super) fn only_address(workload: &Workload, like: IpAddr) -> Option<IpAddr> {
    let mut same = workload.addresses.iter().filter(|ip| ip.is_ipv4() == like.is_ipv4());
    same.next().copied().filter(|_| same.next().is_none())
}

/// The client's socket of a direct connection.
pub(super) const fn client_socket(connection: &DirectConnection) -> TcpSocket {
    TcpSocket { local: connection.client, remote: connection.server, cookie: connection.cookie }
}

/// The destination's, whose cookie is not known.
pub(super) const fn server_socket(connection: &DirectConnection) -> TcpSocket {
    TcpSocket { local: connection.server, remote: connection.client, cookie: 0 }
}
