#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed unwrap is a failed test")]
use super::*;

fn query(name: &[u8], counts: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0];
    counts.iter().for_each(|&count| bytes.extend([0, count]));
    bytes.extend(name);
    bytes.extend([0, 1, 0, 1]);
    bytes.extend(rest);
    bytes
}

fn name_of(wire_length: usize) -> Vec<u8> {
    let mut name = Vec::new();
    while name.len() + 65 < wire_length {
        name.push(63);
        name.extend([b'a'; 63]);
    }
    let last = wire_length - name.len() - 2;
    name.push(u8::try_from(last).unwrap());
    name.extend(vec![b'b'; last]);
    name.push(0);
    assert_eq!(name.len(), wire_length);
    name
}

#[test]
fn a_name_has_at_most_255_bytes() {
    let parse = |length| Query::parse(&query(&name_of(length), [1, 0, 0, 0], &[])).map(|query| query.question.host);
    assert_eq!(parse(255).unwrap().unwrap().len(), 253);
    assert!(parse(256).is_err());
    assert!(parse(300).is_err());
}

#[test]
fn pointers_and_unknown_labels_are_no_part_of_a_question() {
    for name in [&[0xC0, 0x0C][..], &[1, b'a', 0xC0, 0x0C], &[0x41, b'a', 0], &[0x80, 0], &[64, 0]] {
        assert!(Query::parse(&query(name, [1, 0, 0, 0], &[])).is_err(), "{name:?}");
    }
}

#[test]
fn names_that_are_no_hosts_are_passed_over_and_letters_have_one_case() {
    let host = |name: &[u8]| Query::parse(&query(name, [1, 0, 0, 0], &[])).unwrap().question.host;
    assert_eq!(host(b"\x03WeB\x04_tcp\x00").as_deref(), Some("web._tcp"));
    assert_eq!(host(b"\x00"), None);
    // A dot inside a label is not the dot between two, and a NUL ends nothing.
    assert_eq!(host(b"\x03a.b\x00"), None);
    assert_eq!(host(b"\x03a\x00b\x00"), None);
    assert_eq!(host(b"\x02\xC3\xA4\x00"), None);
}

#[test]
fn other_classes_are_not_ours() {
    let mut bytes = query(b"\x01a\x00", [1, 0, 0, 0], &[]);
    *bytes.last_mut().unwrap() = 3;
    assert_eq!(Query::parse(&bytes).unwrap().question.host, None);
}

#[test]
fn edns_is_found_behind_other_records_and_their_pointers_are_not_followed() {
    let mut rest = vec![0xC0, 0xFF, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4];
    rest.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    let bytes = query(b"\x01a\x00", [1, 0, 1, 1], &rest);
    let parsed = Query::parse(&bytes).unwrap();
    assert_eq!((parsed.edns_size, parsed.edns_is_newer), (Some(4096), false));
    rest[16 + 6] = 1;
    let newer = query(b"\x01a\x00", [1, 0, 1, 1], &rest);
    assert!(Query::parse(&newer).unwrap().edns_is_newer);
}

#[test]
fn every_cut_of_a_query_is_malformed_and_counts_do_not_cost() {
    let whole = query(b"\x03web\x00", [1, 0, 0, 1], &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert!(Query::parse(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(Query::parse(&whole[..length]).is_err(), "{length}");
    }
    assert!(Query::parse(&query(b"\x01a\x00", [1, 255, 255, 255], &[])).is_err());
    for questions in [0, 2] {
        assert!(Query::parse(&query(b"\x01a\x00", [questions, 0, 0, 0], &[])).is_err());
    }
}
