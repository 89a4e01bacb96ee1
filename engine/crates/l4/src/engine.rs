//! The engine as its host sees it: short synchronous calls, and events behind a descriptor.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_core::Rejection;
use culvert_core::identity::Identity;
use culvert_core::names;
use culvert_core::proto::engine::{EventBatch, MetricFamilies, Verdict, WorkloadRef};
use culvert_core::proto::{mesh, security, workload as wire};
use culvert_mesh::{Denied, Policy, Service, ServiceKey, Subject, Workload};
use culvert_net::memory;
use culvert_net::socket::canonical;
use culvert_worker::{Host, Limits, PodInfo, WorkerPool};
use parking_lot::Mutex;
use prost::Message;

use crate::config::Config;
use crate::dump::{self, Section};
use crate::error::EngineError;
use crate::mesh::MeshSettings;
use crate::shared::{ChangeScope, ProxyState};
use crate::watch;

/// One resource as it came from the control plane.
#[derive(Debug, Clone)]
pub struct Upsert {
    /// Its name.
    pub name: String,
    /// The serialized message.
    pub value: Vec<u8>,
}

/// A connection to authorize.
#[derive(Debug, Clone, Copy)]
pub struct AuthzQuery<'a> {
    /// Uid of the workload that would be called.
    pub workload: &'a str,
    /// Who would call; `None` in plain text.
    pub peer: Option<&'a str>,
    /// The caller's address.
    pub source: IpAddr,
    /// Address and port of the application.
    pub destination: SocketAddr,
}

/// The running engine.
pub struct Engine {
    shared: Arc<ProxyState>,
    /// `None` after [`Engine::close`].
    worker_pool: Mutex<Option<WorkerPool<ProxyState>>>,
    pods: Mutex<HashMap<Arc<str>, Arc<PodInfo>>>,
}

impl Engine {
    /// Start the first threads; others follow with the workloads.
    ///
    /// # Errors
    /// [`EngineError::KernelUnsupported`] where a thread, an event loop or an eventfd cannot be had.
    pub fn start(config: Config) -> Result<Self, EngineError> {
        memory::keep_steps();
        let unsupported = |what| move |source| EngineError::KernelUnsupported { what, source };
        let host = Host::new(config.workers).map_err(unsupported("eventfd"))?;
        let shared = Arc::new(ProxyState::new(config, host.clone()));
        let worker_pool = WorkerPool::start(host, shared.clone()).map_err(unsupported("event loop"))?;
        Ok(Self { shared, worker_pool: Mutex::new(Some(worker_pool)), pods: Mutex::default() })
    }

    /// Readable while [`Engine::events`] has events. Owned by the engine.
    #[must_use]
    pub fn event_fd(&self) -> RawFd {
        self.shared.host.events.fd()
    }

    /// Take all events that wait.
    #[must_use]
    pub fn events(&self) -> EventBatch {
        let events = self.shared.host.events.drain();
        let logs = self.shared.telemetry.logs.drain();
        EventBatch {
            events,
            access_log: logs.lines.into(),
            access_log_records: logs.records,
            access_log_records_dropped: logs.records_dropped,
        }
    }

    /// Take over changes of one type of resource. What is good is in force for every connection that starts after the
    /// call; open connections are reevaluated at once.
    ///
    /// # Errors
    /// [`EngineError::ConfigRejected`] names what was refused; the rest is in force all the same.
    pub fn apply(&self, type_url: &str, upserts: Vec<Upsert>, removes: &[String]) -> Result<(), EngineError> {
        self.check_open()?;
        let (reach, rejected) = match type_url {
            names::ADDRESS_TYPE => self.apply_addresses(upserts, removes),
            names::MESH_CONFIG_TYPE => (ChangeScope::Routing, self.apply_mesh_config(upserts, removes)),
            names::AUTHORIZATION_TYPE => (ChangeScope::Authorization, self.apply_policies(upserts, removes)),
            _ => (ChangeScope::Routing, vec![Rejection::new("", "this type of resource is not known").of(type_url)]),
        };
        self.shared.changed(reach);
        if rejected.is_empty() {
            Ok(())
        } else {
            Err(EngineError::ConfigRejected { type_url: type_url.to_owned(), rejected })
        }
    }

    fn apply_addresses(&self, upserts: Vec<Upsert>, removes: &[String]) -> (ChangeScope, Vec<Rejection>) {
        // Decoding is done before the lock is taken: readers wait for insertions only.
        let (parsed, rejected) = parse_all(upserts, parse_address);
        let mut reach = ChangeScope::Routing;
        let is_local = |node: &str| self.shared.config.node.is_empty() || *node == *self.shared.config.node;
        let mut store = self.shared.store.write();
        for address in parsed {
            match address {
                Address::Service(service) => store.insert_service(service),
                Address::Workload(workload) => {
                    // The list of policies that a local workload names may have changed.
                    if is_local(&workload.node) {
                        reach = ChangeScope::Authorization;
                    }
                    store.insert_workload(workload);
                }
            }
        }
        for name in removes {
            let key = ServiceKey::parse("", name).ok().filter(|_| name.matches('/').count() == 1);
            if !store.remove_workload(name) {
                key.map(|key| store.remove_service(&key));
            }
        }
        (reach, rejected)
    }

    /// There is one such resource; without it the engine's defaults are in force.
    fn apply_mesh_config(&self, upserts: Vec<Upsert>, removes: &[String]) -> Vec<Rejection> {
        let config = &self.shared.config;
        let (parsed, rejected) = parse_all(upserts, |bytes| {
            let message = mesh::MeshConfig::decode(bytes).map_err(|error| Rejection::new("", error.to_string()))?;
            MeshSettings::parse(config, &message)
        });
        match parsed.into_iter().last() {
            Some(settings) => self.shared.set_mesh(settings),
            None if !removes.is_empty() => self.shared.set_mesh(MeshSettings::without_mesh(config)),
            None => {}
        }
        rejected
    }

    fn apply_policies(&self, upserts: Vec<Upsert>, removes: &[String]) -> Vec<Rejection> {
        let parse = |bytes: &[u8]| {
            let message = security::Authorization::decode(bytes).map_err(|e| Rejection::new("", e.to_string()))?;
            Policy::parse(message)
        };
        let (parsed, rejected) = parse_all(upserts, parse);
        let mut store = self.shared.store.write();
        for policy in parsed {
            store.policies.insert(policy);
        }
        for name in removes {
            store.policies.remove(name);
        }
        rejected
    }

    /// Authorize a connection without opening one: for operators and for tests.
    ///
    /// `peer` is `None` for plain text. The answer is of this moment.
    ///
    /// # Errors
    /// [`EngineError::ConfigRejected`] where no workload has the uid.
    pub fn authorize(&self, question: AuthzQuery<'_>) -> Result<Verdict, EngineError> {
        self.check_open()?;
        let AuthzQuery { workload, peer, source, destination } = question;
        let store = self.shared.store.read();
        let workload =
            store.workload(workload).ok_or_else(|| rejected_question(workload, "no workload has this uid"))?;
        let peer = peer.map(parse_identity).transpose()?;
        let subject = Subject { peer, source: source.to_canonical(), destination: canonical(destination) };
        let enforced = store.policies.evaluate(workload, &subject);
        let policy = match &enforced {
            Ok(allowed) => allowed.clone(),
            Err(Denied::By(key) | Denied::Unknown(key)) => Some(key.clone()),
            Err(Denied::NotAllowed) => None,
        };
        Ok(Verdict {
            allowed: enforced.is_ok(),
            policy: policy.as_deref().unwrap_or_default().to_owned(),
            reason: enforced.err().map(|denied| denied.to_string()).unwrap_or_default(),
            dry_run: store.policies.dry_run(workload, &subject).iter().map(ToString::to_string).collect(),
        })
    }

    /// Take over the roots that peers are verified with, in PEM, for all identities.
    ///
    /// In force for every handshake that ends after the call. Open tunnels whose peer's chain leads to none of them are
    /// closed at once.
    ///
    /// # Errors
    /// [`EngineError::ConfigRejected`]; roots that are held stay.
    pub fn set_trust_bundle(&self, roots: &[u8]) -> Result<(), EngineError> {
        self.check_open()?;
        let taken = self.shared.host.certificates.set_trust_bundle(roots);
        self.shared.direct.trust_changed(self.shared.around());
        taken.map_err(|error| certificate_rejected("trust bundle", error.to_string()))
    }

    /// Take over the revocation lists of all issuers, in PEM; nothing but white space means that there are none.
    ///
    /// In force for every handshake that ends after the call. Open tunnels whose peer is revoked by them are
    /// closed at once.
    ///
    /// # Errors
    /// [`EngineError::ConfigRejected`]; lists that are held stay.
    pub fn set_revocation_lists(&self, lists: &[u8]) -> Result<(), EngineError> {
        self.check_open()?;
        let taken = self.shared.host.certificates.set_revocation_lists(lists);
        self.shared.direct.trust_changed(self.shared.around());
        taken.map_err(|error| certificate_rejected("revocation lists", error.to_string()))
    }

    /// Take over an identity's certificate chain (leaf first) and key, in PEM. It is used as soon as there is a trust
    /// bundle, and with each later one.
    ///
    /// # Errors
    /// [`EngineError::ConfigRejected`]; a certificate that is held stays.
    pub fn set_certificate(&self, identity: &str, chain: &[u8], key: &[u8]) -> Result<(), EngineError> {
        self.check_open()?;
        let identity = parse_identity(identity)?;
        let taken = self.shared.host.certificates.set_certificate(&identity, chain, key);
        self.shared.direct.trust_changed(self.shared.around());
        taken.map_err(|error| certificate_rejected(identity.as_str(), error.to_string()))
    }

    /// Record why an identity has no certificate. One that is held and still valid stays.
    ///
    /// # Errors
    /// [`EngineError::ConfigRejected`] where `identity` is none.
    pub fn certificate_unavailable(&self, identity: &str, reason: &str) -> Result<(), EngineError> {
        self.check_open()?;
        let identity = parse_identity(identity)?;
        self.shared.host.certificates.unavailable(&identity, reason.to_owned());
        Ok(())
    }

    /// Serve a workload in a network namespace; a `WorkloadStarted` event reports when its listeners are open.
    ///
    /// The descriptor is duplicated; the caller closes its own.
    ///
    /// # Errors
    /// [`EngineError::ConfigRejected`] where the names make no identity; [`EngineError::Busy`].
    pub fn add_workload(&self, workload: WorkloadRef, netns: BorrowedFd<'_>) -> Result<(), EngineError> {
        let identity = Identity::new(&self.shared.config.trust_domain, &workload.namespace, &workload.service_account)
            .map_err(|error| certificate_rejected(&workload.uid, error.to_string()))?;
        let mode = workload.mode();
        let pod = Arc::new(PodInfo {
            mode,
            uid: workload.uid.into(),
            name: workload.name.into(),
            namespace: workload.namespace.into(),
            service_account: workload.service_account.into(),
            identity,
            limits: Limits::new(self.shared.config.limits, &self.shared.telemetry.metrics.slowed_by_memory),
        });
        self.worker_pool.lock().as_mut().ok_or(EngineError::Closed)?.add(&pod, netns)?;
        let known = self.shared.direct.add_pod(&pod, netns);
        known.map_err(|source| EngineError::Busy(format!("cannot name the namespace: {source}")))?;
        self.pods.lock().insert(pod.uid.clone(), pod);
        Ok(())
    }

    /// Stop serving a workload. Peers that do not know yet are served a little longer, open streams run to their end (both
    /// limited by settings); a `WorkloadStopped` event reports when the last has ended.
    ///
    /// # Errors
    /// [`EngineError::Busy`].
    pub fn remove_workload(&self, uid: &str) -> Result<(), EngineError> {
        let uid: Arc<str> = uid.into();
        self.worker_pool.lock().as_mut().ok_or(EngineError::Closed)?.remove(&uid)?;
        self.pods.lock().remove(&uid);
        self.shared.direct.remove_pod(self.shared.around(), &uid);
        Ok(())
    }

    /// Let pods of this node connect directly, by the maps that the node agent has pinned below `folder`. To be called
    /// when all workloads have been added: what an earlier engine has allowed is decided again before this returns, and
    /// what is of none of them goes. Without the setting, and after the first call, it does nothing.
    ///
    /// # Errors
    /// [`EngineError::KernelUnsupported`] where there are no such maps.
    pub fn attach_direct(&self, folder: &Path) -> Result<(), EngineError> {
        self.check_open()?;
        let unsupported = |source| EngineError::KernelUnsupported { what: "direct connections", source };
        let attached = self.shared.direct.attach(self.shared.around(), folder);
        if attached.map_err(|error| unsupported(io::Error::other(error)))? {
            watch::start(&self.shared).map_err(unsupported)?;
        }
        Ok(())
    }

    /// Drain: take no new connections, let open ones run for up to `timeout`, then close them.
    ///
    /// # Errors
    /// [`EngineError::Busy`].
    pub fn drain(&self, timeout: Duration) -> Result<(), EngineError> {
        Ok(self.worker_pool.lock().as_ref().ok_or(EngineError::Closed)?.drain(timeout)?)
    }

    /// Number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.iter().map(|worker| worker.all().len()).sum()
    }

    /// Number of listeners and accepted connections that are open, tunnels of peers included; 0 some time after
    /// [`Engine::drain`] says that nothing is left to wait for.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.host.held.count()
    }

    /// All counters.
    #[must_use]
    pub fn metrics(&self) -> MetricFamilies {
        let mut all = self.shared.telemetry.metrics.families();
        all.families.extend(self.shared.outliers.families());
        all.families.push(self.shared.telemetry.logs.family());
        all.families.extend(self.shared.direct.families());
        all.families.extend(self.worker_pool.lock().iter().flat_map(WorkerPool::families));
        all
    }

    /// One section of the configuration dump, as JSON.
    #[must_use]
    pub fn dump(&self, section: Section) -> String {
        let pods: Vec<_> = self.pods.lock().values().cloned().collect();
        dump::render(&self.shared, &pods, section).to_string()
    }

    /// Stop everything at once; later calls answer [`EngineError::Closed`].
    pub fn close(&self) {
        // Taken out first: a second caller must not wait for the first one's threads.
        let worker_pool = self.worker_pool.lock().take();
        self.shared.direct.detach();
        if let Some(worker_pool) = worker_pool {
            worker_pool.close();
        }
    }

    fn check_open(&self) -> Result<(), EngineError> {
        if self.worker_pool.lock().is_some() { Ok(()) } else { Err(EngineError::Closed) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

enum Address {
    Workload(Workload),
    Service(Service),
}

fn parse_address(bytes: &[u8]) -> Result<Address, Rejection> {
    let message = wire::Address::decode(bytes).map_err(|error| Rejection::new("", error.to_string()))?;
    match message.r#type {
        Some(wire::address::Type::Workload(workload)) => Workload::parse(workload).map(Address::Workload),
        Some(wire::address::Type::Service(service)) => Service::parse(service).map(Address::Service),
        None => Err(Rejection::new("type", "is neither a workload nor a service")),
    }
}

fn parse_all<T>(upserts: Vec<Upsert>, parse: impl Fn(&[u8]) -> Result<T, Rejection>) -> (Vec<T>, Vec<Rejection>) {
    let mut parsed = Vec::with_capacity(upserts.len());
    let mut rejected = Vec::new();
    for upsert in upserts {
        match parse(&upsert.value) {
            Ok(good) => parsed.push(good),
            Err(bad) => rejected.push(bad.of(&upsert.name)),
        }
    }
    (parsed, rejected)
}

fn parse_identity(text: &str) -> Result<Identity, EngineError> {
    text.parse().map_err(|error: culvert_core::identity::InvalidIdentity| certificate_rejected(text, error.to_string()))
}

fn rejected_question(workload: &str, reason: &str) -> EngineError {
    EngineError::ConfigRejected {
        type_url: names::ADDRESS_TYPE.to_owned(),
        rejected: vec![Rejection::new("", reason).of(workload)],
    }
}

fn certificate_rejected(name: &str, reason: String) -> EngineError {
    EngineError::ConfigRejected {
        type_url: "certificate".to_owned(),
        rejected: vec![Rejection::new("", reason).of(name)],
    }
}
