//! Upstream endpoints, whatever the protocol: which of them fail, what addresses their host names have, and which one a
//! connection gets.
//!
//! Endpoints are socket addresses with a rank and a weight; this crate does not know workloads or services.

mod dns_cache;
mod expiring_map;
mod outlier;
mod select;

pub use dns_cache::{CachedHost, DnsCache};
pub use outlier::{Ejected, OutlierSettings, Outliers};
pub use select::{Candidate, Endpoint, Selected, SelectionContext, preferred_address, select, selectable};
