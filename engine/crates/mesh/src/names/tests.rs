#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use culvert_core::proto::workload as wire;

use super::*;

const DOMAIN: &str = "cluster.local";

fn packed(text: &str) -> prost::bytes::Bytes {
    match text.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec().into(),
        IpAddr::V6(ip) => ip.octets().to_vec().into(),
    }
}

fn service(namespace: &str, hostname: &str, addresses: &[&str]) -> wire::Service {
    let addresses = addresses.iter().map(|ip| wire::NetworkAddress { address: packed(ip), ..Default::default() });
    wire::Service {
        namespace: namespace.into(),
        hostname: hostname.into(),
        addresses: addresses.collect(),
        ..Default::default()
    }
}

fn pod(name: &str, namespace: &str, addresses: &[&str]) -> wire::Workload {
    wire::Workload {
        uid: format!("cluster//Pod/{namespace}/{name}"),
        name: name.into(),
        namespace: namespace.into(),
        addresses: addresses.iter().map(|ip| packed(ip)).collect(),
        ..Default::default()
    }
}

struct World(Store);

impl World {
    fn new(services: Vec<wire::Service>) -> Self {
        let mut store = Store::default();
        for namespace in ["shop", "other"] {
            store.insert_workload(Workload::parse(pod("client", namespace, &["10.0.0.1"])).unwrap());
        }
        services.into_iter().for_each(|service| store.insert_service(Service::parse(service).unwrap()));
        Self(store)
    }

    fn add(&mut self, workload: wire::Workload) {
        self.0.insert_workload(Workload::parse(workload).unwrap());
    }

    fn addresses(&self, namespace: &str, name: &str) -> Option<Vec<String>> {
        let client = self.0.workload_named(namespace, "client", "default").unwrap();
        let service = self.0.service_named(client, name, DOMAIN)?;
        let mut found: Vec<_> = self.0.addresses_of(client, service).iter().map(ToString::to_string).collect();
        found.sort();
        Some(found)
    }

    fn first(&self, namespace: &str, name: &str) -> Option<String> {
        self.addresses(namespace, name)?.into_iter().next()
    }
}

#[test]
fn services_are_known_by_each_name_that_the_search_path_allows() {
    let world = World::new(vec![
        service("shop", "web.shop.svc.cluster.local", &["10.96.0.1"]),
        service("other", "web.other.svc.cluster.local", &["10.96.0.2"]),
    ]);
    let web = |name: &str| (world.first("shop", name), world.first("other", name));
    let (shop, other) = (Some("10.96.0.1".to_owned()), Some("10.96.0.2".to_owned()));
    assert_eq!(web("web"), (shop.clone(), other.clone()));
    for name in ["web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "web.shop.svc.svc.cluster.local"] {
        assert_eq!(web(name), (shop.clone(), shop.clone()), "{name}");
    }
    assert_eq!(web("web.other.shop.svc.cluster.local").0, other);
    for name in ["web.nowhere", "nothing", "eb.shop", "web.shop.svc.cluster.locals", "cluster.local", "svc"] {
        assert_eq!(web(name), (None, None), "{name}");
    }
}

#[test]
fn a_host_is_found_before_a_wildcard_and_the_closest_wildcard_first() {
    let world = World::new(vec![
        service("shop", "*.example.com", &["10.96.0.1"]),
        service("shop", "*.api.example.com", &["10.96.0.2"]),
        service("shop", "v1.api.example.com", &["10.96.0.3"]),
    ]);
    for (name, address) in [
        ("www.example.com", "10.96.0.1"),
        ("a.b.c.example.com", "10.96.0.1"),
        ("v2.api.example.com", "10.96.0.2"),
        ("v1.api.example.com", "10.96.0.3"),
        ("v1.api.example.com.shop.svc.cluster.local", "10.96.0.3"),
    ] {
        assert_eq!(world.first("shop", name).as_deref(), Some(address), "{name}");
    }
    assert_eq!(world.first("shop", "example.com"), None, "a wildcard covers what is below it");
}

#[test]
fn of_one_name_in_many_namespaces_the_visible_the_own_and_the_canonical_are_preferred() {
    let private = wire::service::Visibility::Namespace.into();
    let mut world = World::new(vec![
        service("a", "api.example.com", &["10.96.0.1"]),
        wire::Service { canonical: true, ..service("b", "api.example.com", &["10.96.0.2"]) },
        service("shop", "api.example.com", &["10.96.0.3"]),
    ]);
    assert_eq!(world.first("shop", "api.example.com").as_deref(), Some("10.96.0.3"));
    assert_eq!(world.first("other", "api.example.com").as_deref(), Some("10.96.0.2"));
    let hidden = wire::Service { visibility: private, ..service("shop", "secret.example.com", &["10.96.0.4"]) };
    world.0.insert_service(Service::parse(hidden).unwrap());
    assert_eq!(world.first("shop", "secret.example.com").as_deref(), Some("10.96.0.4"));
    assert_eq!(world.first("other", "secret.example.com"), None);
}

#[test]
fn a_service_has_the_addresses_of_its_families() {
    let both = || service("shop", "web.example.com", &["10.96.0.1", "fd00::1"]);
    let of = |families: wire::IpFamilies| {
        let one = wire::Service { ip_families: families.into(), ..both() };
        World::new(vec![one]).addresses("shop", "web.example.com").unwrap()
    };
    assert_eq!(of(wire::IpFamilies::Dual), ["10.96.0.1", "fd00::1"]);
    assert_eq!(of(wire::IpFamilies::Ipv4Only), ["10.96.0.1"]);
    assert_eq!(of(wire::IpFamilies::Ipv6Only), ["fd00::1"]);
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    let mut world = World::new(vec![service("shop", "db.example.com", &[])]);
    assert_eq!(world.addresses("shop", "db.example.com").unwrap(), [""; 0]);
    let endpoint = |name: &str, ip: &str, status: wire::WorkloadStatus| {
        let services = [("shop/db.example.com".to_owned(), wire::PortList::default())];
        wire::Workload { services: services.into(), status: status.into(), ..pod(name, "shop", &[ip]) }
    };
    world.add(endpoint("a", "10.0.0.2", wire::WorkloadStatus::Healthy));
    world.add(endpoint("b", "10.0.0.3", wire::WorkloadStatus::Unhealthy));
    world.add(endpoint("c", "fd00::4", wire::WorkloadStatus::Healthy));
    let far = endpoint("d", "10.0.0.5", wire::WorkloadStatus::Healthy);
    world.add(wire::Workload { network: "east".into(), ..far });
    assert_eq!(world.addresses("shop", "db.example.com").unwrap(), ["10.0.0.2", "fd00::4"]);
    let load_balancing = Some(wire::LoadBalancing { health_policy: 1, ..Default::default() });
    let all = wire::Service { load_balancing, ..service("shop", "db.example.com", &[]) };
    world.0.insert_service(Service::parse(all).unwrap());
    assert_eq!(world.addresses("shop", "db.example.com").unwrap(), ["10.0.0.2", "10.0.0.3", "fd00::4"]);
}

#[test]
fn hosts_have_one_letter_case() {
    let world = World::new(vec![service("shop", "API.Example.com", &["10.96.0.1"])]);
    assert_eq!(world.first("shop", "api.example.com").as_deref(), Some("10.96.0.1"));
}
