//! Values that several resources have.

use std::net::IpAddr;

use culvert_core::Rejection;

/// An enumeration's value; one that this version does not know is refused.
pub(crate) fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, Rejection> {
    T::try_from(value).map_err(|_| Rejection::new(field, format!("value {value} is not known")))
}

pub(crate) fn parse_ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Rejection> {
    let ip: Option<IpAddr> = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    ip.ok_or_else(|| Rejection::new(field, format!("an address has 4 or 16 bytes, not {}", bytes.len())))
}

pub(crate) fn parse_port(field: &str, port: u32) -> Result<u16, Rejection> {
    u16::try_from(port).map_err(|_| Rejection::new(field, format!("{port} is not a port")))
}
