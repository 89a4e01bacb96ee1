//! Capture by BPF (`meshengine.bpf.Capture`), for the node agent.

use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_bpf::BpfError;
use culvert_bpf::capture::{Capture as Inner, CaptureConfig, LinkPrograms, Ports};
use culvert_bpf::plans::{PodRules, pod_flag, port_list, range_flag};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::address;
use crate::bpf::{Connection, connections, to_python};

#[pyclass(frozen, module = "meshengine._native")]
struct CaptureRules {
    inner: PodRules,
}

#[pymethods]
impl CaptureRules {
    #[new]
    #[pyo3(signature = (*, flags, addresses, excluded_links, ports, ranges))]
    fn new(
        flags: Vec<String>,
        addresses: Vec<String>,
        excluded_links: Vec<u32>,
        ports: Vec<(u16, String)>,
        ranges: Vec<(String, u32, Vec<String>)>,
    ) -> PyResult<Self> {
        let ports = ports.into_iter().map(|(port, list)| Ok((port, known("ports", &list, port_list)?)));
        let ranges = ranges
            .into_iter()
            .map(|(from, length, flags)| Ok((address("ranges", &from)?, length, bits("ranges", &flags, range_flag)?)));
        let inner = PodRules {
            flags: bits("flags", &flags, pod_flag)?,
            addresses: addresses.iter().map(|text| address("addresses", text)).collect::<PyResult<_>>()?,
            excluded_links,
            ports: ports.collect::<PyResult<_>>()?,
            ranges: ranges.collect::<PyResult<_>>()?,
        };
        Ok(Self { inner })
    }
}

#[pyclass(frozen, module = "meshengine._native")]
struct Capture {
    inner: Mutex<Option<Inner>>,
}

impl Capture {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Inner) -> Result<T, BpfError> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| self.lock().as_mut().map(work));
        done.ok_or_else(|| PyValueError::new_err("the capture has been uninstalled"))?
            .map_err(|error| to_python(&error))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Inner>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Capture {
    #[new]
    #[pyo3(signature = (folder, *, tunnel_mark, reply_mark, outbound_port, inbound_port, hbone_port, dns_port, direct_limit=0))]
    #[allow(clippy::too_many_arguments, reason = "keywords, to Python")]
    fn new(
        py: Python<'_>,
        folder: PathBuf,
        tunnel_mark: (u32, u32),
        reply_mark: (u32, u32),
        outbound_port: u16,
        inbound_port: u16,
        hbone_port: u16,
        dns_port: u16,
        direct_limit: u64,
    ) -> PyResult<Self> {
        let ports = Ports { outbound: outbound_port, inbound: inbound_port, hbone: hbone_port, dns: dns_port };
        let opened = py.detach(|| Inner::open(&folder, CaptureConfig { tunnel_mark, reply_mark, ports, direct_limit }));
        Ok(Self { inner: Mutex::new(Some(opened.map_err(|error| to_python(&error))?)) })
    }

    fn attach(&self, py: Python<'_>, cgroup: PathBuf) -> PyResult<()> {
        self.with(py, |inner| inner.attach(&cgroup))
    }

    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |inner| inner.detach())
    }

    fn attach_tunnel(&self, py: Python<'_>, cgroup: PathBuf) -> PyResult<()> {
        self.with(py, |inner| inner.attach_tunnel(&cgroup))
    }

    fn missing(&self, py: Python<'_>, cgroup: PathBuf) -> PyResult<Vec<&'static str>> {
        self.with(py, |inner| inner.missing(&cgroup))
    }

    fn attach_pod(&self, py: Python<'_>, cookie: u64, netns_fd: RawFd) -> PyResult<()> {
        let netns = borrowed(netns_fd)?;
        self.with(py, |inner| inner.attach_pod(cookie, netns))
    }

    fn adopt_listener(&self, py: Python<'_>, cookie: u64) -> PyResult<bool> {
        self.with(py, |inner| inner.adopt_listener(cookie))
    }

    fn has_pod(&self, py: Python<'_>, cookie: u64, netns_fd: RawFd) -> PyResult<bool> {
        let netns = borrowed(netns_fd)?;
        self.with(py, |inner| inner.has_pod(cookie, netns))
    }

    fn set_plan(&self, py: Python<'_>, cookie: u64, rules: &CaptureRules) -> PyResult<()> {
        self.with(py, |inner| inner.set_plan(cookie, &rules.inner))
    }

    fn is_plan(&self, py: Python<'_>, cookie: u64, rules: &CaptureRules) -> PyResult<bool> {
        self.with(py, |inner| inner.is_plan(cookie, &rules.inner))
    }

    fn has_plan(&self, py: Python<'_>, cookie: u64) -> PyResult<bool> {
        self.with(py, |inner| inner.has_plan(cookie))
    }

    fn remove_pod(&self, py: Python<'_>, cookie: u64) -> PyResult<bool> {
        self.with(py, |inner| inner.remove_pod(cookie))
    }

    fn prune(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        self.with(py, Inner::prune)
    }

    fn link_programs(&self, py: Python<'_>, cookie: u64) -> PyResult<(RawFd, RawFd, RawFd, RawFd)> {
        let LinkPrograms { leaving, arriving, outside, guard } = self.with(py, |inner| inner.link_programs(cookie))?;
        Ok((leaving.into_raw_fd(), arriving.into_raw_fd(), outside.into_raw_fd(), guard.into_raw_fd()))
    }

    fn guard_program(&self, py: Python<'_>, cookie: u64, preexisting: Vec<Connection>) -> PyResult<RawFd> {
        let preexisting = connections(preexisting)?;
        self.with(py, |inner| inner.guard_program(cookie, &preexisting)).map(IntoRawFd::into_raw_fd)
    }

    fn files(&self, py: Python<'_>, cookie: u64) -> PyResult<Vec<PathBuf>> {
        self.with(py, |inner| Ok(inner.files(cookie).to_vec()))
    }

    fn counts(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, u64)>> {
        self.with(py, |inner| inner.counts())
    }

    fn uninstall(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.lock().take();
        py.detach(|| inner.map_or(Ok(()), Inner::uninstall)).map_err(|error| to_python(&error))
    }
}

#[pyfunction]
fn programs_at(py: Python<'_>, cgroup: PathBuf) -> PyResult<Vec<(&'static str, String)>> {
    py.detach(|| culvert_bpf::capture::programs_at(&cgroup)).map_err(|error| to_python(&error))
}

fn bits(what: &str, names: &[String], value: fn(&str) -> Option<u32>) -> PyResult<u32> {
    names.iter().try_fold(0, |bits, name| Ok(bits | known(what, name, value)?))
}

fn known<T>(what: &str, name: &str, value: fn(&str) -> Option<T>) -> PyResult<T> {
    value(name).ok_or_else(|| PyValueError::new_err(format!("{what}: {name:?} is not known")))
}

/// SAFETY of the result: Python's caller keeps its descriptor open for the duration of the call, as the stub says.
fn borrowed<'a>(descriptor: RawFd) -> PyResult<BorrowedFd<'a>> {
    if descriptor < 0 {
        return Err(PyValueError::new_err(format!("netns_fd: {descriptor} is no descriptor")));
    }
    // SAFETY: see above; the caller of this function drops it before it returns to Python.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<CaptureRules>()?;
    module.add_function(wrap_pyfunction!(programs_at, module)?)?;
    module.add_class::<Capture>()
}
