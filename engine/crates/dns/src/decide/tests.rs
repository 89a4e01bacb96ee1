#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed unwrap is a failed test")]
use super::*;
use crate::{addresses_in, is_answer_to, rewrite_id, without_nxdomain};

const OPT_4096: &[u8] = &[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0];

fn asking(kind: u16, edns: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xAB, 0xCD, 1, 0x10, 0, 1, 0, 0, 0, 0, 0, u8::from(!edns.is_empty())];
    bytes.extend(b"\x03wEb\x04shop\x00");
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(edns);
    bytes
}

fn addresses(count: u8) -> Vec<IpAddr> {
    (0..count).map(|number| IpAddr::from([10, 0, 0, number])).collect()
}

fn reply(packet: &[u8], transport: Transport, found: Vec<IpAddr>) -> Vec<u8> {
    match decide(packet, transport, |_, _| Lookup::Known(found)).action {
        Action::Reply(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_known_name_is_answered_in_the_askers_words() {
    let asked = asking(1, &[]);
    let bytes = reply(&asked, Transport::Udp, addresses(2));
    // Response, authoritative, recursion desired and available, checking disabled, no error; one question, two answers.
    assert_eq!(bytes[..12], [0xAB, 0xCD, 0x85, 0x90, 0, 1, 0, 2, 0, 0, 0, 0]);
    assert_eq!(bytes[12..asked.len()], asked[12..]);
    assert_eq!(addresses_in(&bytes).unwrap(), (addresses(2), 30));
    assert!(is_answer_to(&asked, &bytes));
}

#[test]
fn a_family_that_a_name_lacks_is_no_error() {
    let bytes = reply(&asking(28, OPT_4096), Transport::Udp, vec![]);
    assert_eq!((bytes[3] & 0xF, &bytes[4..12]), (0, &[0, 1, 0, 0, 0, 0, 0, 1][..]));
    assert_eq!(bytes[bytes.len() - 11..][..3], [0, 0, 41], "EDNS is answered with EDNS");
}

#[test]
fn what_does_not_fit_is_truncated_over_udp_and_whole_over_tcp() {
    let flags = |bytes: &[u8]| bytes[2] & 0x02;
    let small = reply(&asking(1, &[]), Transport::Udp, addresses(200));
    assert!(small.len() <= 512 && small.len() > 480 && flags(&small) != 0, "{}", small.len());
    assert_eq!(addresses_in(&small).unwrap().0.len(), 30);
    let large = reply(&asking(1, OPT_4096), Transport::Udp, addresses(200));
    assert!(large.len() > 3200 && flags(&large) == 0);
    let whole = reply(&asking(1, &[]), Transport::Tcp, addresses(200));
    assert_eq!((addresses_in(&whole).unwrap().0.len(), flags(&whole)), (200, 0));
    let endless = reply(&asking(1, &[]), Transport::Tcp, addresses(250).repeat(30));
    assert!(endless.len() <= 65535);
    assert!(addresses_in(&endless).is_ok());
}

#[test]
fn other_names_and_types_are_the_resolvers() {
    let unknown = decide(&asking(1, &[]), Transport::Udp, |_, _| Lookup::Unknown);
    assert_eq!(unknown.action, Action::Forward { exists: false });
    let asked = |name: &str, kind| {
        assert_eq!((name, kind), ("web.shop", QueryType(65)));
        Lookup::Known(vec![])
    };
    assert_eq!(decide(&asking(65, &[]), Transport::Udp, asked).action, Action::Forward { exists: true });
    let newer: &[u8] = &[0, 0, 41, 0x10, 0, 0, 1, 0, 0, 0, 0];
    let never = |_: &str, _| panic!("not asked about");
    assert_eq!(decide(&asking(1, newer), Transport::Udp, never).action, Action::Forward { exists: false });
}

#[test]
fn what_is_no_query_gets_no_lookup() {
    let act = |packet: &[u8]| decide(packet, Transport::Udp, |_, _| panic!("not asked about")).action;
    assert_eq!(act(&[]), Action::Ignore);
    assert_eq!(act(&[0; 11]), Action::Ignore);
    let mut response = asking(1, &[]);
    response[2] |= 0x80;
    assert_eq!(act(&response), Action::Ignore, "an answer to an answer could go on for ever");
    let mut update = asking(1, &[]);
    update[2] = 5 << 3;
    let Action::Reply(refused) = act(&update) else { panic!() };
    assert_eq!((refused[2] & 0xF8, refused[3] & 0xF), (0x80 | 5 << 3, 4));
    let Action::Reply(malformed) = act(&asking(1, &[])[..20]) else { panic!() };
    assert_eq!((&malformed[..2], malformed[3] & 0xF, malformed.len()), (&[0xAB, 0xCD][..], 1, 12));
}

#[test]
fn only_the_answer_to_the_question_is_taken() {
    let asked = asking(1, OPT_4096);
    let good = reply(&asked, Transport::Udp, addresses(1));
    assert!(is_answer_to(&asked, &good));
    let changed = |at: usize, byte: u8| {
        let mut other = good.clone();
        other[at] ^= byte;
        is_answer_to(&asked, &other)
    };
    assert!(changed(13, 0x20), "some resolvers change the case");
    for (at, byte, what) in [
        (0, 1, "identifier"),
        (2, 0x80, "direction"),
        (2, 0x08, "operation"),
        (13, 1, "name"),
        (23, 1, "type"),
        (25, 2, "class"),
        (5, 2, "number of questions"),
        (5, 1, "no question"),
    ] {
        assert!(!changed(at, byte), "{what}");
    }
    assert!(!is_answer_to(&asked, &good[..20]));
    let mut refused = vec![0xAB, 0xCD, 0x81, 0x81];
    refused.extend([0; 8]);
    assert!(is_answer_to(&asked, &refused), "one that could not read the question may leave it out");
    refused[3] = 0x80;
    assert!(!is_answer_to(&asked, &refused));
}

#[test]
fn identifiers_and_missing_names_are_rewritten_in_place() {
    let mut bytes = vec![0, 0, 0x81, 0x83, 9];
    rewrite_id(&mut bytes, 0x1234);
    without_nxdomain(&mut bytes);
    assert_eq!(bytes, [0x12, 0x34, 0x81, 0x80, 9]);
    rewrite_id(&mut [], 1);
    without_nxdomain(&mut []);
}

#[test]
fn our_own_queries_are_queries() {
    let bytes = crate::query("db.Example.com", QueryType::AAAA).unwrap();
    let asked = decide(&bytes, Transport::Udp, |_, _| Lookup::Unknown).question.unwrap();
    assert_eq!((asked.host.as_deref(), asked.query_type), (Some("db.example.com"), QueryType::AAAA));
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".");
    for bad in ["", ".", "a..b", "a b", &"x".repeat(64), &long] {
        assert_eq!(crate::query(bad, QueryType::A), None, "{bad}");
    }
}

/// Every byte of a good packet replaced by a few values, and every cut: nothing panics, and no reply is longer than
/// its transport allows.
#[test]
fn no_bytes_are_too_strange() {
    let good = asking(1, OPT_4096);
    for at in 0..good.len() {
        for value in [0, 1, 2, 12, 63, 64, 127, 128, 192, 193, 255] {
            let mut packet = good.clone();
            packet[at] = value;
            for length in [at, packet.len()] {
                let decision = decide(&packet[..length], Transport::Udp, |_, _| Lookup::Known(addresses(255)));
                if let Action::Reply(bytes) = decision.action {
                    assert!(bytes.len() <= 4096);
                }
                let _ = addresses_in(&packet[..length]);
                let _ = is_answer_to(&good, &packet[..length]);
            }
        }
    }
}
