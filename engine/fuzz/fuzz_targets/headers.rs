//! What travels with a CONNECT: authority, `baggage`, `forwarded`, `traceparent`; one a line. And identities.

#![no_main]

use culvert_core::identity::Identity;
use culvert_hbone::authority::{Host, destination};
use culvert_hbone::headers::{BAGGAGE, Baggage, FORWARDED, TRACEPARENT, Trace, forwarded_host};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&byte| byte == b'\n');
    let mut map = HeaderMap::new();
    if let Ok(authority) = Authority::try_from(lines.next().unwrap_or_default()) {
        if let Ok((Host::Name(name), _)) = destination(Some(&authority)) {
            assert!(!name.is_empty() && name.len() <= 255);
        }
    }
    for (name, line) in [FORWARDED, TRACEPARENT].into_iter().zip(&mut lines) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            map.append(name, value);
        }
    }
    let _ = (forwarded_host(&map), Trace::parse(&map));
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            map.append(BAGGAGE, value);
        }
        if let Some(identity) = std::str::from_utf8(line).ok().and_then(|text| text.parse::<Identity>().ok()) {
            let again = Identity::new(identity.trust_domain(), identity.namespace(), identity.service_account());
            assert_eq!(again.as_ref(), Ok(&identity));
        }
    }
    let baggage = Baggage::parse(&map);
    // What we write, we read as the same.
    if let Some(value) = baggage.encode() {
        let again: HeaderMap = std::iter::once((BAGGAGE, value)).collect();
        assert!(
            again.get(BAGGAGE).is_some_and(|value| value.len() > 4096)
                || Baggage::parse(&again) == {
                    let mut named = baggage.clone();
                    if named.workload.is_none() {
                        named.workload_type = None;
                    }
                    named
                }
        );
    }
});
