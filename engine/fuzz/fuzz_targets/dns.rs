//! DNS packets from pods (first byte even: UDP, odd: TCP) and answers of resolvers.

#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_dns::{Action, Lookup, QueryType, Rcode, Transport, decide};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, packet)) = data.split_first() else { return };
    let transport = if choice % 2 == 0 { Transport::Udp } else { Transport::Tcp };
    let addresses = usize::from(choice >> 1);
    let lookup = |host: &str, kind: QueryType| {
        assert!(host.len() <= 255 && !host.ends_with('.'), "{host}");
        assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase()), "{host}");
        match kind {
            QueryType::A => Lookup::Known(vec![Ipv4Addr::LOCALHOST.into(); addresses]),
            QueryType::AAAA => Lookup::Known(vec![Ipv6Addr::LOCALHOST.into(); addresses]),
            _ => Lookup::Unknown,
        }
    };
    if let Action::Reply(reply) = decide(packet, transport, lookup).action {
        // What we say is never taken for a question, answers this one, and fits.
        let limit = if transport == Transport::Udp { 4096 } else { 65_535 };
        assert!(reply.len() <= limit, "{} bytes", reply.len());
        assert_eq!(reply.get(..2), packet.get(..2));
        assert_eq!(decide(&reply, transport, |_, _| Lookup::Unknown).action, Action::Ignore);
    }
    let _ = culvert_dns::refusal(packet, Rcode::ServFail);
    let _ = culvert_dns::is_truncated(packet);
    let _ = culvert_dns::addresses_in(packet);
    let _ = culvert_dns::is_answer_to(packet, packet);
    let mut changed = packet.to_vec();
    culvert_dns::rewrite_id(&mut changed, 7);
    culvert_dns::without_nxdomain(&mut changed);
    assert_eq!(changed.len(), packet.len());
});
