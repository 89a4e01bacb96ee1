//! What `bpf/include` declares is what is mirrored here: names, offsets, sizes and values.

use std::collections::BTreeSet;
use std::mem::offset_of;
use std::path::Path;

use super::btf::{Field, Types, types};
use super::capture::kernel_only::{Arrival, Client, Destination, RangeKey};
use super::capture::{COUNTS, ListenerSlot, POD_FLAGS, PORT_LISTS, PodPlan, PortKey, RANGE_FLAGS, TREATMENTS};
use super::direct::{
    self, DirectEndpoint, DirectEvent, DirectFlow, DirectKey, DirectService, DirectVerdict, FIN_ACKED, FIN_RECEIVED,
    STATES,
};
use super::egress::{self, Answerable, BEGUN_BY_PEER, BEGUN_BY_TUNNEL, OnLink};
use super::{Connection, Stage};
use crate::drops::Reason;
use crate::guard::OBJECT as GUARD;
use crate::loader::{Object, object};

const LAYOUT: Object = object!("layout_check");

/// A mirrored struct: its name in C, its size, its fields.
type Mirror = (&'static str, usize, Vec<Field>);

fn field<T, F>(name: &str, offset: usize, _: fn(&T) -> &F) -> Field {
    (name.to_owned(), offset, size_of::<F>())
}

macro_rules! mirror {
    ($name:literal, $mirror:ty { $($field:ident),* }) => {
        ($name, size_of::<$mirror>(), vec![
            $(field(stringify!($field), offset_of!($mirror, $field), |one: &$mirror| &one.$field)),*
        ])
    };
}

fn structs() -> Vec<Mirror> {
    vec![
        mirror!("connection", Connection { local, remote, local_port, remote_port }),
        mirror!("pod_plan", PodPlan { address_v4, address_v6, flags, generation, excluded_links }),
        mirror!("port_key", PortKey { netns, generation, port, list }),
        mirror!("range_key", RangeKey { prefix_bits, generation, netns, address }),
        mirror!("destination", Destination { address, port, treatment }),
        mirror!("client", Client { netns, address, port, protocol, _pad }),
        mirror!("arrival", Arrival { netns, remote, remote_port, local_port, _pad }),
        mirror!("listener_slot", ListenerSlot { netns, slot, _pad }),
        mirror!("direct_key", DirectKey { netns, address, port, _pad }),
        mirror!("direct_endpoint", DirectEndpoint { address, port, _pad, share_end }),
        mirror!("direct_service", DirectService { count, shares, endpoints }),
        mirror!("direct_verdict", DirectVerdict { destination_netns, source }),
        mirror!(
            "direct_flow",
            DirectFlow {
                source_netns,
                destination_netns,
                cookie,
                began,
                opened,
                received,
                target,
                target_port,
                state,
                ending
            }
        ),
        mirror!("answerable", Answerable { local, remote, local_port, remote_port, netns, protocol }),
        mirror!("on_link", OnLink { address, bits }),
        mirror!("direct_event", DirectEvent { connection, kind, flow, at, to_destination, to_client }),
    ]
}

fn enums() -> Vec<(&'static str, Vec<(String, u32)>)> {
    let reasons = Reason::ALL.iter().map(|one| (format!("GUARD_DROP_{}", one.name().to_uppercase()), *one as u32));
    let count = u32::try_from(Reason::ALL.len()).expect("few reasons");
    let named = |values: &[(&str, u32)]| values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let counts = (0..).zip(COUNTS).map(|(value, name)| (format!("CAPTURE_{}", name.to_uppercase()), value));
    let direct_counts =
        (0..).zip(direct::COUNTS).map(|(value, name)| (format!("DIRECT_COUNT_{}", name.to_uppercase()), value));
    let egress_drops =
        (0..).zip(egress::DROPS).map(|(value, name)| (format!("EGRESS_DROP_{}", name.to_uppercase()), value));
    vec![
        ("egress_drop", egress_drops.chain([("EGRESS_DROP_REASONS".to_owned(), 7)]).collect()),
        ("begun_by", named(&[("BEGUN_BY_PEER", BEGUN_BY_PEER), ("BEGUN_BY_TUNNEL", BEGUN_BY_TUNNEL)])),
        ("pod_flag", named(&POD_FLAGS)),
        ("port_list", named(&PORT_LISTS)),
        ("range_flag", named(&RANGE_FLAGS)),
        ("treatment", named(&TREATMENTS)),
        ("capture_count", counts.chain([("CAPTURE_COUNTS".to_owned(), 7)]).collect()),
        (
            "stage",
            vec![("STAGE_OPENING".to_owned(), Stage::Opening as u32), ("STAGE_OPEN".to_owned(), Stage::Open as u32)],
        ),
        ("direct_state", named(&STATES)),
        ("direct_ending", named(&[("ENDING_FIN_ACKED", FIN_ACKED), ("ENDING_FIN_RECEIVED", FIN_RECEIVED)])),
        (
            "direct_event_kind",
            named(&[
                ("DIRECT_OPENED", direct::OPENED),
                ("DIRECT_CLOSED", direct::CLOSED),
                ("DIRECT_FORBIDDEN", direct::FORBIDDEN),
            ]),
        ),
        (
            "flow_table",
            named(&[
                ("FLOW_TABLE_USED", direct::USED),
                ("FLOW_TABLE_OWNER", direct::OWNER),
                ("FLOW_TABLE_SEEN", direct::SEEN),
                ("FLOW_TABLE_SIZE", 3),
            ]),
        ),
        ("direct_count", direct_counts.chain([("DIRECT_COUNTS".to_owned(), 5)]).collect()),
        ("guard_drop", reasons.chain([("GUARD_DROP_REASONS".to_owned(), count)]).collect()),
    ]
}

/// What differs between a mirror and the type of the same name.
fn differences(found: &Types, (name, size, fields): &Mirror) -> Vec<String> {
    let Some((found_size, found_fields)) = found.structs.get(*name) else {
        return vec![format!("struct {name} is missing")];
    };
    let mut differ = Vec::new();
    if found_size != size {
        differ.push(format!("struct {name} has {found_size} bytes, mirrored as {size}"));
    }
    for number in 0..fields.len().max(found_fields.len()) {
        if fields.get(number) != found_fields.get(number) {
            differ.push(format!("struct {name}: {:?}, mirrored as {:?}", found_fields.get(number), fields.get(number)));
        }
    }
    differ
}

#[test]
fn structs_have_the_layout_of_their_mirrors() {
    let found = types(LAYOUT.bytes);
    let differ: Vec<String> = structs().iter().flat_map(|mirror| differences(&found, mirror)).collect();
    assert_eq!(differ, Vec::<String>::new());
}

#[test]
fn the_guards_own_object_has_the_same_layout() {
    assert_eq!(differences(&types(GUARD.bytes), &structs()[0]), Vec::<String>::new());
}

#[test]
fn enums_have_the_values_of_their_mirrors() {
    let found = types(LAYOUT.bytes);
    for (name, values) in enums() {
        assert_eq!(found.enums.get(name), Some(&values), "enum {name}");
    }
}

#[test]
fn everything_that_the_headers_declare_is_mirrored() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../bpf/include");
    let mut declared = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the folder of shared headers") {
        let text = std::fs::read_to_string(entry.expect("a file").path()).expect("a header");
        for line in text.lines().filter(|line| line.ends_with(" {")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [kind @ ("struct" | "enum"), name, "{"] = words[..] {
                declared.insert(format!("{kind} {name}"));
            }
        }
    }
    let found = types(LAYOUT.bytes);
    let structs_in_object = found.structs.keys().map(|name| format!("struct {name}"));
    let in_object: BTreeSet<String> =
        structs_in_object.chain(found.enums.keys().map(|name| format!("enum {name}"))).collect();
    assert_eq!(in_object, declared, "bpf/layout_check.bpf.c has a variable of each");
    let mirrored: BTreeSet<String> = structs()
        .iter()
        .map(|(name, ..)| format!("struct {name}"))
        .chain(enums().iter().map(|(name, _)| format!("enum {name}")))
        .collect();
    assert_eq!(mirrored, declared);
}

#[test]
fn a_moved_field_is_found() {
    #[repr(C)]
    struct Moved {
        local: [u8; 16],
        remote: [u8; 16],
        remote_port: [u8; 2],
        local_port: [u8; 2],
    }
    let moved = mirror!("connection", Moved { local, remote, local_port, remote_port });
    let differ = differences(&types(LAYOUT.bytes), &moved);
    assert_eq!(differ.len(), 2, "{differ:?}");
    assert!(differ[0].contains("local_port"), "{differ:?}");
}
