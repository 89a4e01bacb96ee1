//! The engine as a Python class. Nothing else of the engine knows Python, and no engine thread ever attaches to it.
//!
//! Every method that locks, decodes or joins lets go of the interpreter first. The documentation that Python users
//! read is in `meshengine/_native.pyi`.

mod arguments;
mod bpf;
mod capture;
mod errors;

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use culvert_core::proto::engine::{EngineConfig, WorkloadRef};
use culvert_l4::{AuthzQuery, Config, Engine as Inner, Section, Upsert};
use prost::Message;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use arguments::{address, decode};
use errors::to_python;

#[pyclass(frozen, module = "meshengine._native")]
struct Engine {
    inner: Inner,
    process: u32,
}

impl Engine {
    /// A forked child has the handle but none of the threads.
    fn inner(&self) -> PyResult<&Inner> {
        if self.process == std::process::id() {
            Ok(&self.inner)
        } else {
            Err(PyRuntimeError::new_err("the engine belongs to the process that started it, not to a forked child"))
        }
    }
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, config: &[u8]) -> PyResult<Self> {
        let config: EngineConfig = decode("EngineConfig", config)?;
        let inner = py.detach(|| Inner::start(Config::from(config))).map_err(to_python)?;
        Ok(Self { inner, process: std::process::id() })
    }

    fn event_fd(&self) -> PyResult<RawFd> {
        Ok(self.inner()?.event_fd())
    }

    fn drain_events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.inner()?;
        let batch = py.detach(|| inner.events().encode_to_vec());
        Ok(PyBytes::new(py, &batch))
    }

    fn apply(
        &self,
        py: Python<'_>,
        type_url: &str,
        upserts: Vec<(String, Vec<u8>)>,
        removes: Vec<String>,
    ) -> PyResult<()> {
        let inner = self.inner()?;
        let upserts = upserts.into_iter().map(|(name, value)| Upsert { name, value }).collect();
        py.detach(|| inner.apply(type_url, upserts, &removes)).map_err(to_python)
    }

    #[pyo3(signature = (workload_uid, source_identity, source_ip, destination_ip, destination_port))]
    fn authorize<'py>(
        &self,
        py: Python<'py>,
        workload_uid: &str,
        source_identity: Option<&str>,
        source_ip: &str,
        destination_ip: &str,
        destination_port: u16,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.inner()?;
        let question = AuthzQuery {
            workload: workload_uid,
            peer: source_identity,
            source: address("source_ip", source_ip)?,
            destination: SocketAddr::new(address("destination_ip", destination_ip)?, destination_port),
        };
        let verdict = py.detach(|| inner.authorize(question)).map_err(to_python)?;
        Ok(PyBytes::new(py, &verdict.encode_to_vec()))
    }

    fn set_trust_bundle(&self, py: Python<'_>, roots: &[u8]) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.set_trust_bundle(roots)).map_err(to_python)
    }

    fn set_revocation_lists(&self, py: Python<'_>, lists: &[u8]) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.set_revocation_lists(lists)).map_err(to_python)
    }

    fn set_certificate(&self, py: Python<'_>, identity: &str, chain: &[u8], private_key: &[u8]) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.set_certificate(identity, chain, private_key)).map_err(to_python)
    }

    fn certificate_unavailable(&self, py: Python<'_>, identity: &str, reason: &str) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.certificate_unavailable(identity, reason)).map_err(to_python)
    }

    fn add_workload(&self, py: Python<'_>, workload: &[u8], netns_fd: RawFd) -> PyResult<()> {
        let inner = self.inner()?;
        let workload: WorkloadRef = decode("WorkloadRef", workload)?;
        if netns_fd < 0 {
            return Err(PyValueError::new_err(format!("netns_fd: {netns_fd} is no descriptor")));
        }
        // SAFETY: the caller keeps its descriptor open for the duration of the call, as the stub says; the engine
        // duplicates it and never closes this one.
        let netns = unsafe { BorrowedFd::borrow_raw(netns_fd) };
        py.detach(|| inner.add_workload(workload, netns)).map_err(to_python)
    }

    fn remove_workload(&self, py: Python<'_>, uid: &str) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.remove_workload(uid)).map_err(to_python)
    }

    fn attach_direct(&self, py: Python<'_>, folder: PathBuf) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.attach_direct(&folder)).map_err(to_python)
    }

    fn drain(&self, py: Python<'_>, timeout_s: f64) -> PyResult<()> {
        let inner = self.inner()?;
        let timeout = Duration::try_from_secs_f64(timeout_s)
            .map_err(|error| PyValueError::new_err(format!("timeout_s: {error}")))?;
        py.detach(|| inner.drain(timeout)).map_err(to_python)
    }

    fn connections(&self, py: Python<'_>) -> PyResult<usize> {
        let inner = self.inner()?;
        Ok(py.detach(|| inner.connections()))
    }

    fn held(&self, py: Python<'_>) -> PyResult<usize> {
        let inner = self.inner()?;
        Ok(py.detach(|| inner.held()))
    }

    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.inner()?;
        let families = py.detach(|| inner.metrics().encode_to_vec());
        Ok(PyBytes::new(py, &families))
    }

    fn dump(&self, py: Python<'_>, section: &str) -> PyResult<String> {
        let inner = self.inner()?;
        let section = match section {
            "workloads" => Section::Workloads,
            "services" => Section::Services,
            "policies" => Section::Policies,
            "certificates" => Section::Certificates,
            "workloadState" => Section::WorkloadState,
            other => return Err(PyValueError::new_err(format!("section: {other:?} is not a section of the dump"))),
        };
        Ok(py.detach(|| inner.dump(section)))
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (kind, error, trace, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Option<&Bound<'_, PyAny>>,
        error: Option<&Bound<'_, PyAny>>,
        trace: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = (kind, error, trace);
        self.close(py)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.close());
        Ok(())
    }
}

/// The compiled half of `meshengine`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    bpf::register(module)?;
    capture::register(module)?;
    errors::register(module)
}
