//! BPF programs for the node agent (`meshengine.bpf`): it loads and attaches them, and reads what they have counted.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{IntoRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use culvert_bpf::BpfError;
use culvert_bpf::drops::{Drops, Reason};
use culvert_bpf::egress::{Egress as InnerEgress, EgressPrograms, Namespace};
use culvert_bpf::guard::{self, GuardConfig, PreexistingConnection};
use pyo3::prelude::*;

use crate::arguments::address;
use crate::errors::KernelUnsupported;

/// Address and port in the pod, address and port of the peer, whether the handshake is complete.
pub(crate) type Connection = (String, u16, String, u16, bool);

#[pyfunction]
#[pyo3(signature = (*, tunnel_mark, tunnel_mark_mask, passed_mark, redirect_ports, preexisting))]
fn load_guard(
    py: Python<'_>,
    tunnel_mark: u32,
    tunnel_mark_mask: u32,
    passed_mark: u32,
    redirect_ports: (u16, u16),
    preexisting: Vec<Connection>,
) -> PyResult<RawFd> {
    let config = GuardConfig { tunnel_mark, tunnel_mark_mask, passed_mark, redirect_ports };
    let preexisting = connections(preexisting)?;
    let program = py.detach(|| guard::load(config, &preexisting));
    program.map(IntoRawFd::into_raw_fd).map_err(|error| to_python(&error))
}

pub(crate) fn connections(given: Vec<Connection>) -> PyResult<Vec<PreexistingConnection>> {
    given.into_iter().map(connection).collect()
}

fn connection((local, local_port, remote, remote_port, open): Connection) -> PyResult<PreexistingConnection> {
    let at = |text: &str, port| -> PyResult<SocketAddr> {
        let address: IpAddr = address("preexisting", text)?;
        Ok(SocketAddr::new(address, port))
    };
    Ok(PreexistingConnection { local: at(&local, local_port)?, remote: at(&remote, remote_port)?, open })
}

#[pyclass(frozen, module = "meshengine._native")]
struct GuardDrops {
    inner: Mutex<Drops>,
}

#[pymethods]
impl GuardDrops {
    #[new]
    fn new() -> Self {
        Self { inner: Mutex::new(Drops::default()) }
    }

    fn add(&self, py: Python<'_>, program_id: u32) -> PyResult<()> {
        py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).add(program_id))
            .map_err(|error| to_python(&error))
    }

    fn totals(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, u64)>> {
        let counts = py
            .detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).totals())
            .map_err(|error| to_python(&error))?;
        Ok(Reason::ALL.iter().map(|reason| reason.name()).zip(counts).collect())
    }
}

#[pyclass(frozen, module = "meshengine._native")]
struct Egress {
    inner: Mutex<InnerEgress>,
}

impl Egress {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut InnerEgress) -> Result<T, BpfError> + Send,
    ) -> PyResult<T> {
        py.detach(|| work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(|error| to_python(&error))
    }
}

#[pymethods]
impl Egress {
    #[new]
    #[pyo3(signature = (folder, *, tunnel_mark))]
    fn new(py: Python<'_>, folder: PathBuf, tunnel_mark: (u32, u32)) -> PyResult<Self> {
        let opened = py.detach(|| InnerEgress::open(&folder, tunnel_mark)).map_err(|error| to_python(&error))?;
        Ok(Self { inner: Mutex::new(opened) })
    }

    fn add_tunnel(&self, py: Python<'_>, cgroup: u64) -> PyResult<()> {
        self.with(py, |inner| inner.add_tunnel(cgroup))
    }

    #[pyo3(signature = (*, netns, on_link, accepted))]
    fn load(
        &self,
        py: Python<'_>,
        netns: u32,
        on_link: Vec<(String, u32)>,
        accepted: Vec<Connection>,
    ) -> PyResult<(RawFd, RawFd, RawFd)> {
        let range = |(text, bits): (String, u32)| -> PyResult<(IpAddr, u32)> { Ok((address("on_link", &text)?, bits)) };
        let on_link = on_link.into_iter().map(range).collect::<PyResult<_>>()?;
        let accepted = connections(accepted)?;
        let namespace = Namespace { inode: netns, on_link };
        let EgressPrograms { leaving, arriving, host } = self.with(py, |inner| inner.load(&namespace, &accepted))?;
        Ok((leaving.into_raw_fd(), arriving.into_raw_fd(), host.into_raw_fd()))
    }

    fn drops(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, u64)>> {
        self.with(py, |inner| inner.drops())
    }
}

pub(crate) fn to_python(error: &BpfError) -> PyErr {
    KernelUnsupported::new_err(error.to_string())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<GuardDrops>()?;
    module.add_class::<Egress>()?;
    module.add_function(wrap_pyfunction!(load_guard, module)?)
}
