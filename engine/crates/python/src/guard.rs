//! Loads the guard program for the node agent, which attaches it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{IntoRawFd, RawFd};

use culvert_bpf::guard::{self, GuardConfig, PreexistingConnection};
use pyo3::prelude::*;

use crate::arguments::address;
use crate::errors::KernelUnsupported;

type Connection = (String, u16, String, u16, bool);

#[pyfunction]
#[pyo3(signature = (*, tunnel_mark, tunnel_mark_mask, passed_mark, redirect_ports, preexisting))]
pub(crate) fn load_guard(
    py: Python<'_>,
    tunnel_mark: u32,
    tunnel_mark_mask: u32,
    passed_mark: u32,
    redirect_ports: (u16, u16),
    preexisting: Vec<Connection>,
) -> PyResult<RawFd> {
    let config = GuardConfig { tunnel_mark, tunnel_mark_mask, passed_mark, redirect_ports };
    let preexisting: Vec<PreexistingConnection> = preexisting.into_iter().map(connection).collect::<PyResult<_>>()?;
    let program = py.detach(|| guard::load(config, &preexisting));
    program.map(IntoRawFd::into_raw_fd).map_err(|error| KernelUnsupported::new_err(error.to_string()))
}

fn connection((local, local_port, remote, remote_port, open): Connection) -> PyResult<PreexistingConnection> {
    let at = |text: &str, port| -> PyResult<SocketAddr> {
        let address: IpAddr = address("preexisting", text)?;
        Ok(SocketAddr::new(address, port))
    };
    Ok(PreexistingConnection { local: at(&local, local_port)?, remote: at(&remote, remote_port)?, open })
}
