//! What the engine knows, as JSON in the shape of Istio's ztunnel: `istioctl ztunnel-config` decodes it strictly, and one
//! value of another type (an object where it has text) makes it refuse the whole dump.
//!
//! What Istio's does not have is added under names of its own (`ejected`, `directDestinations`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use culvert_core::names;
use culvert_core::proto::security as policy_wire;
use culvert_core::proto::workload as wire;
use culvert_mesh::{
    Condition, Gateway, GatewayDestination, Match, Pattern, Policy, Protocol, Service, Store, Workload, target_port,
};
use culvert_telemetry::Direction;
use culvert_tls::CertificateDetails;
use culvert_upstream::Ejected;
use culvert_worker::{CertificateState, PodInfo};
use serde_json::{Map, Value, json};

use crate::shared::ProxyState;

/// A part of the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Workloads, an array.
    Workloads,
    /// Services with their endpoints, an array.
    Services,
    /// Policies, an array.
    Policies,
    /// Certificates, an array.
    Certificates,
    /// Pods served here and their connections, an object by uid.
    WorkloadState,
}

pub(crate) fn render(shared: &ProxyState, pods: &[Arc<PodInfo>], section: Section) -> Value {
    match section {
        Section::Workloads => sorted(shared.store.read().workloads().map(|one| (one.uid.to_string(), workload(one)))),
        Section::Services => {
            let store = shared.store.read();
            let ejected = shared.outliers.ejected();
            sorted(store.services().map(|one| (one.key.to_string(), service(&store, one, ejected.as_deref()))))
        }
        Section::Policies => sorted(shared.store.read().policies.iter().map(|one| (one.key.to_string(), policy(one)))),
        Section::Certificates => sorted(
            shared.host.certificates.all().iter().map(|(id, state)| (id.to_string(), certificate(id.as_str(), state))),
        ),
        Section::WorkloadState => workload_state(shared, pods),
    }
}

fn sorted(items: impl Iterator<Item = (String, Value)>) -> Value {
    items.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// What Istio's has even when there is nothing in it.
const ALWAYS: [&str; 5] = ["workloadIps", "vips", "ports", "endpoints", "rules"];

/// An object without what is absent: null, empty text, empty list, empty object.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let is_present = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(key, value)| is_present(value) || ALWAYS.contains(key));
    fields.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
}

fn workload(one: &Workload) -> Value {
    let mut services: Vec<_> = one.services.keys().map(ToString::to_string).collect();
    services.sort_unstable();
    object([
        ("workloadIps", json!(one.addresses)),
        ("waypoint", one.waypoint.as_ref().map_or(Value::Null, gateway)),
        ("protocol", json!(if one.protocol == Protocol::Hbone { "HBONE" } else { "TCP" })),
        ("networkMode", if one.host_network { json!("HostNetwork") } else { Value::Null }),
        ("uid", json!(one.uid)),
        ("name", json!(one.name)),
        ("namespace", json!(one.namespace)),
        ("trustDomain", json!(one.identity.trust_domain())),
        ("serviceAccount", json!(one.identity.service_account())),
        ("network", json!(one.network)),
        ("workloadName", json!(one.workload_name)),
        ("workloadType", json!(one.workload_type.as_str_name().to_lowercase())),
        ("canonicalName", json!(one.canonical_name)),
        ("canonicalRevision", json!(one.canonical_revision)),
        ("hostname", json!(one.hostname)),
        ("node", json!(one.node)),
        ("nativeTunnel", if one.native_tunnel { json!(true) } else { Value::Null }),
        ("egress", if one.registry_only { json!(names::EGRESS_REGISTRY_ONLY) } else { Value::Null }),
        ("authorizationPolicies", json!(one.policies)),
        ("status", json!(if one.healthy { "Healthy" } else { "Unhealthy" })),
        ("clusterId", json!(one.cluster)),
        (
            "locality",
            object([
                ("region", json!(one.locality.region)),
                ("zone", json!(one.locality.zone)),
                ("subzone", json!(one.locality.subzone)),
            ]),
        ),
        ("services", json!(services)),
        ("capacity", json!(one.capacity)),
    ])
}

fn gateway(one: &Gateway) -> Value {
    let destination = match &one.destination {
        GatewayDestination::Service(key) => key.to_string(),
        GatewayDestination::Address(address) => format!("{}/{}", address.network, address.ip),
    };
    json!({"destination": destination, "hboneMtlsPort": one.hbone_port})
}

fn service(store: &Store, one: &Service, ejected: Option<&Ejected>) -> Value {
    let endpoints: Map<_, _> = store
        .endpoints(&one.key)
        .map(|workload| {
            let ports = workload.services.get(&one.key);
            let mut addresses = ports.into_iter().flat_map(|ports| {
                ports
                    .keys()
                    .filter_map(|&port| target_port(one, workload, port))
                    .flat_map(|port| workload.addresses.iter().map(move |&ip| SocketAddr::new(ip, port)))
            });
            let is_ejected = ejected.is_some_and(|ejected| addresses.any(|address| ejected.contains(address)));
            let endpoint = object([
                ("workloadUid", json!(workload.uid)),
                ("port", json!(ports)),
                ("status", json!(if workload.healthy { "Healthy" } else { "Unhealthy" })),
                ("ejected", if is_ejected { json!(true) } else { Value::Null }),
            ]);
            (workload.uid.to_string(), endpoint)
        })
        .collect();
    let balancer = if one.scopes.is_empty() && one.mode == wire::load_balancing::Mode::UnspecifiedMode {
        Value::Null
    } else {
        json!({
            "routingPreferences": one.scopes.iter().map(|scope| camel(scope.as_str_name())).collect::<Vec<_>>(),
            "mode": match one.mode {
                wire::load_balancing::Mode::UnspecifiedMode => "Standard".to_owned(),
                mode => camel(mode.as_str_name()),
            },
            "healthPolicy": if one.publish_not_ready { "AllowAll" } else { "OnlyHealthy" },
        })
    };
    object([
        ("name", json!(one.name)),
        ("namespace", json!(one.key.namespace)),
        ("hostname", json!(one.key.hostname)),
        ("vips", one.addresses.iter().map(|vip| json!(format!("{}/{}", vip.network, vip.ip))).collect()),
        ("cidrVips", one.ranges.iter().map(|(network, range)| json!({"network": network, "cidr": range})).collect()),
        ("ports", json!(one.ports)),
        ("endpoints", endpoints.into()),
        ("subjectAltNames", one.identities.iter().map(|identity| json!(identity.as_str())).collect()),
        ("waypoint", one.waypoint.as_ref().map_or(Value::Null, gateway)),
        ("loadBalancer", balancer),
        (
            "ipFamilies",
            match one.ip_families {
                wire::IpFamilies::Automatic => Value::Null,
                wire::IpFamilies::Ipv4Only => json!("IPv4"),
                wire::IpFamilies::Ipv6Only => json!("IPv6"),
                wire::IpFamilies::Dual => json!("Dual"),
            },
        ),
        ("canonical", if one.canonical { json!(true) } else { Value::Null }),
        ("visibility", if one.private { json!("Namespace") } else { Value::Null }),
    ])
}

/// The word of a protocol's enumeration as Istio's ztunnel writes it: `FAILOVER` is `Failover`.
fn camel(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().into_iter().chain(letters.map(|letter| letter.to_ascii_lowercase())).collect()
}

fn policy(one: &Policy) -> Value {
    let scope = match one.scope {
        policy_wire::Scope::Global => "Global",
        policy_wire::Scope::Namespace => "Namespace",
        policy_wire::Scope::WorkloadSelector => "WorkloadSelector",
    };
    let rules: Vec<Vec<Vec<Value>>> = one
        .rules
        .iter()
        .map(|rule| rule.iter().map(|clause| clause.iter().map(one_match).collect()).collect())
        .collect();
    object([
        ("name", json!(one.name)),
        ("namespace", json!(one.namespace)),
        ("scope", json!(scope)),
        ("action", json!(if one.action == policy_wire::Action::Deny { "Deny" } else { "Allow" })),
        ("rules", json!(rules)),
        ("dryRun", if one.dry_run { json!(true) } else { Value::Null }),
    ])
}

fn one_match(one: &Match) -> Value {
    fn list<T>(values: &[T], show: impl Fn(&T) -> Value) -> Value {
        values.iter().map(show).collect()
    }
    fn both<T>(condition: &Condition<T>, show: impl Fn(&T) -> Value + Copy) -> (Value, Value) {
        (list(&condition.any_of, show), list(&condition.none_of, show))
    }
    let pattern = |pattern: &Pattern| match pattern {
        Pattern::Exact(text) => json!({"Exact": text}),
        Pattern::Prefix(text) => json!({"Prefix": text}),
        Pattern::Suffix(text) => json!({"Suffix": text}),
        Pattern::Presence => json!({"Presence": {}}),
    };
    let (namespaces, not_namespaces) = both(&one.namespaces, pattern);
    let (principals, not_principals) = both(&one.principals, pattern);
    let (accounts, not_accounts) =
        both(&one.service_accounts, |(namespace, account)| json!({"namespace": namespace, "serviceAccount": account}));
    let (sources, not_sources) = both(&one.sources, |range| json!(range));
    let (destinations, not_destinations) = both(&one.destinations, |range| json!(range));
    let (ports, not_ports) = both(&one.ports, |port| json!(port));
    object([
        ("namespaces", namespaces),
        ("notNamespaces", not_namespaces),
        ("principals", principals),
        ("notPrincipals", not_principals),
        ("serviceAccounts", accounts),
        ("notServiceAccounts", not_accounts),
        ("sourceIps", sources),
        ("notSourceIps", not_sources),
        ("destinationIps", destinations),
        ("notDestinationIps", not_destinations),
        ("destinationPorts", ports),
        ("notDestinationPorts", not_ports),
    ])
}

fn certificate(identity: &str, state: &CertificateState) -> Value {
    let (word, chain, roots) = match state {
        CertificateState::Initializing => ("Initializing".to_owned(), Vec::new(), Vec::new()),
        CertificateState::Unavailable(reason) => (format!("Unavailable: {reason}"), Vec::new(), Vec::new()),
        CertificateState::Available(held) => {
            let (chain, roots) = held.details();
            ("Available".to_owned(), chain, roots)
        }
    };
    let all = |list: &[CertificateDetails]| list.iter().map(certificate_details).collect::<Vec<_>>();
    json!({"identity": identity, "state": word, "certChain": all(&chain), "rootCerts": all(&roots)})
}

fn certificate_details(one: &CertificateDetails) -> Value {
    let time = |seconds: i64| {
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
    };
    json!({
        "pem": base64::engine::general_purpose::STANDARD.encode(&one.pem),
        "serialNumber": one.serial,
        "validFrom": time(one.not_before),
        "expirationTime": time(one.not_after),
    })
}

fn workload_state(shared: &ProxyState, pods: &[Arc<PodInfo>]) -> Value {
    let connections: Vec<_> = shared.connections.iter().flat_map(|worker| worker.all()).collect();
    let of = |pod: &Arc<PodInfo>, direction: Direction| -> Vec<Value> {
        let mine = connections.iter().filter(|one| one.pod.uid == pod.uid && one.direction == direction);
        mine.map(|one| {
            json!({
                "src": one.source.to_string(),
                "originalDst": one.original_destination.to_string(),
                "actualDst": one.actual_destination.to_string(),
                "protocol": one.protocol,
            })
        })
        .collect()
    };
    let state = |pod: &Arc<PodInfo>| {
        let connections = json!({"inbound": of(pod, Direction::Inbound), "outbound": of(pod, Direction::Outbound)});
        object([
            ("state", json!("Up")),
            ("info", json!({"name": pod.name, "namespace": pod.namespace, "serviceAccount": pod.service_account})),
            ("connections", connections),
            ("directDestinations", shared.direct.destinations(&pod.uid).iter().map(ToString::to_string).collect()),
        ])
    };
    pods.iter().map(|pod| (pod.uid.to_string(), state(pod))).collect::<Map<_, _>>().into()
}
