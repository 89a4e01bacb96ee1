//! Arguments of calls, as the types of the engine.

use std::net::IpAddr;

use prost::Message;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

pub(crate) fn decode<M: Message + Default>(what: &str, bytes: &[u8]) -> PyResult<M> {
    M::decode(bytes).map_err(|error| PyValueError::new_err(format!("{what}: {error}")))
}

pub(crate) fn address(what: &str, text: &str) -> PyResult<IpAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{what}: {text:?} is not an IP address")))
}
