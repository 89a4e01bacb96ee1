//! The headers that travel with a CONNECT: `baggage`, `forwarded`, `traceparent`.
//!
//! They are for telemetry. None of them plays a part in authorization.

use std::fmt::Write as _;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

/// W3C baggage.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// RFC 7239.
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a peer says of a workload. Values are as written; one that is empty or too long reads as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<String>,
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.<type>.name`.
    pub workload: Option<String>,
    /// The `<type>` of that key: deployment, cronjob, pod or job.
    pub workload_type: Option<String>,
    /// `service.name`.
    pub service: Option<String>,
    /// `service.version`.
    pub version: Option<String>,
    /// `cloud.region`.
    pub region: Option<String>,
    /// `cloud.availability_zone`.
    pub zone: Option<String>,
}

/// A header longer than this is not read: it is a peer's word about itself, worth no more memory.
const LONGEST: usize = 4096;
/// No name in Kubernetes is longer; values become labels of metrics, which are kept.
const LONGEST_VALUE: usize = 253;
const WORKLOAD_TYPES: [&str; 4] = ["deployment", "cronjob", "pod", "job"];

impl Baggage {
    /// Read all `baggage` headers; the last word on a key wins, unknown keys are skipped.
    #[must_use]
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut baggage = Self::default();
        for value in headers.get_all(BAGGAGE) {
            let Some(text) = value.to_str().ok().filter(|text| text.len() <= LONGEST) else { continue };
            for (key, value) in text.split(',').filter_map(|member| member.split_once('=')) {
                baggage.set(key.trim(), value.trim());
            }
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        let value = (1..=LONGEST_VALUE).contains(&value.len()).then(|| value.to_owned());
        match key {
            "k8s.cluster.name" => self.cluster = value,
            "k8s.namespace.name" => self.namespace = value,
            "service.name" => self.service = value,
            "service.version" => self.version = value,
            "cloud.region" => self.region = value,
            "cloud.availability_zone" => self.zone = value,
            _ => {
                let kind = key.strip_prefix("k8s.").and_then(|rest| rest.strip_suffix(".name"));
                if let Some(kind) = kind.filter(|kind| WORKLOAD_TYPES.contains(kind)) {
                    self.workload = value;
                    self.workload_type = Some(kind.to_owned());
                }
            }
        }
    }

    /// The header's value; `None` where nothing is known or the value is not valid in a header.
    #[must_use]
    pub fn encode(&self) -> Option<HeaderValue> {
        let workload_key = format!("k8s.{}.name", self.workload_type.as_deref().unwrap_or("pod"));
        let members = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (workload_key.as_str(), &self.workload),
            ("service.name", &self.service),
            ("service.version", &self.version),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ];
        let mut text = String::with_capacity(192);
        for (key, value) in members.into_iter().filter_map(|(key, value)| value.as_ref().map(|value| (key, value))) {
            let separator = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{separator}{key}={value}");
        }
        if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
    }
}

/// `for="<client>"` and, where the client addressed a service, `;host=<hostname>`.
#[must_use]
pub fn forwarded(client: SocketAddr, service: Option<&str>) -> Option<HeaderValue> {
    let mut text = format!("for=\"{client}\"");
    if let Some(host) = service {
        let _ = write!(text, ";host={host}");
    }
    HeaderValue::try_from(text).ok()
}

/// The `host=` of a `forwarded` header.
#[must_use]
pub fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(FORWARDED)?.to_str().ok().filter(|text| text.len() <= LONGEST)?;
    text.split(';').find_map(|pair| pair.trim().strip_prefix("host=")).map(|host| host.trim_matches('"'))
}

/// The ids of a `traceparent`: what both ends of a connection log of it, so that their entries can be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// `trace-id`, in the order of the header's digits.
    pub id: [u8; 16],
    /// `parent-id`: the span in which the header was written.
    pub parent: [u8; 8],
}

impl Trace {
    /// A trace of these random ids, which are not 0.
    #[must_use]
    pub fn new(id: u128, parent: u64) -> Self {
        Self { id: id.to_be_bytes(), parent: parent.to_be_bytes() }
    }

    /// The header's value: version 00, not sampled.
    #[must_use]
    pub fn encode(&self) -> Option<HeaderValue> {
        let (id, parent) = (u128::from_be_bytes(self.id), u64::from_be_bytes(self.parent));
        HeaderValue::try_from(format!("00-{id:032x}-{parent:016x}-00")).ok()
    }

    /// Read a well-formed header of version 00; an id of zeros is none (W3C Trace Context, section 3.2.2).
    #[must_use]
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(TRACEPARENT)?.to_str().ok().filter(|text| text.len() == 55)?;
        let mut parts = text.split('-');
        let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || id.len() != 32 || parent.len() != 16 || !text.bytes().all(is_digit_or_dash) {
            return None;
        }
        let (id, parent) = (u128::from_str_radix(id, 16).ok()?, u64::from_str_radix(parent, 16).ok()?);
        (id != 0 && parent != 0).then(|| Self::new(id, parent))
    }
}

/// Digits are lower case there; `from_str_radix` would take a sign too.
fn is_digit_or_dash(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn baggage_survives_the_wire() {
        let baggage = Baggage {
            cluster: Some("Kubernetes".into()),
            namespace: Some("shop".into()),
            workload: Some("web".into()),
            workload_type: Some("deployment".into()),
            service: Some("web".into()),
            version: Some("v1".into()),
            region: None,
            zone: Some("a".into()),
        };
        let value = baggage.encode().unwrap();
        assert_eq!(
            value,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,\
             service.version=v1,cloud.availability_zone=a"
        );
        let mut map = HeaderMap::new();
        map.append(BAGGAGE, value);
        assert_eq!(Baggage::parse(&map), baggage);
    }

    #[test]
    fn the_last_baggage_wins_and_unknown_keys_are_skipped() {
        let map =
            headers(&[(BAGGAGE, "service.name=a,x=y,k8s.node.name=n,service.version="), (BAGGAGE, "service.name=b")]);
        assert_eq!(Baggage::parse(&map), Baggage { service: Some("b".into()), ..Baggage::default() });
    }

    #[test]
    fn forwarded_names_client_and_service() {
        let value = forwarded("[fd00::1]:80".parse().unwrap(), Some("web.shop.svc")).unwrap();
        assert_eq!(value, "for=\"[fd00::1]:80\";host=web.shop.svc");
        let mut map = HeaderMap::new();
        map.append(FORWARDED, value);
        assert_eq!(forwarded_host(&map), Some("web.shop.svc"));
    }

    #[test]
    fn only_a_well_formed_trace_is_read() {
        let good = Trace::new(0xabc, 0x1).encode().unwrap();
        assert_eq!(good, "00-00000000000000000000000000000abc-0000000000000001-00");
        let map: HeaderMap = std::iter::once((TRACEPARENT, good)).collect();
        assert_eq!(Trace::parse(&map), Some(Trace::new(0xabc, 1)));
        for bad in [
            "00-zz",
            "00-00000000000000000000000000000000-0000000000000001-00",
            "00-00000000000000000000000000000abc-0000000000000000-00",
            "00-+0000000000000000000000000000abc-0000000000000001-00",
            "00-00000000000000000000000000000ABC-0000000000000001-00",
            "01-00000000000000000000000000000abc-0000000000000001-00",
        ] {
            assert_eq!(Trace::parse(&headers(&[(TRACEPARENT, bad)])), None, "{bad}");
        }
    }
}
