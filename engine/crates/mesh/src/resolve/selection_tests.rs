//! Which service or workload is meant, and under which of its addresses.

use culvert_upstream::DnsCache;

use super::*;

fn range(hostname: &str, address: &str, length: u32) -> wire::Service {
    let addresses =
        vec![wire::NetworkAddress { address: ip(address).into(), length: Some(length), ..Default::default() }];
    wire::Service { hostname: hostname.into(), addresses, ..service() }
}

fn service_of(route: &Result<Route, RouteError>) -> Option<String> {
    match route {
        Ok(Route::Hbone { service, .. } | Route::Plain { service, .. } | Route::Unknown { service, .. }) => {
            service.as_ref().map(|service| service.key.to_string())
        }
        Err(RouteError::NoEndpoint(service) | RouteError::NoPort(service, _)) => Some(service.clone()),
        Err(_) => None,
    }
}

#[test]
fn ranges_come_after_addresses_own_before_longest_before_canonical() {
    let elsewhere = |service: wire::Service| wire::Service { namespace: "other".into(), ..service };
    let canonical = |service: wire::Service| wire::Service { canonical: true, ..service };
    let private = wire::service::Visibility::Namespace.into();
    let world = World::new(
        vec![
            range("wide", "10.96.0.0", 16),
            range("narrow", "10.96.7.0", 24),
            canonical(elsewhere(range("narrowest", "10.96.7.128", 25))),
            range("whole", "10.96.7.9", 32),
            elsewhere(range("canonical-not", "10.50.0.0", 16)),
            canonical(elsewhere(range("canonical", "10.50.0.0", 16))),
            wire::Service { visibility: private, ..elsewhere(range("hidden", "10.60.0.0", 16)) },
            range("six", "fd00::", 64),
        ],
        vec![],
    );
    let found = |address: &str| service_of(&world.route(address));
    assert_eq!(found("10.96.9.1:80").as_deref(), Some("shop/wide"));
    assert_eq!(found("10.96.7.1:80").as_deref(), Some("shop/narrow"));
    assert_eq!(found("10.96.7.200:80").as_deref(), Some("shop/narrow"), "the own namespace before the longest");
    assert_eq!(found("10.96.7.9:80").as_deref(), Some("shop/whole"), "a range of one is an address");
    assert_eq!(found("10.50.1.1:80").as_deref(), Some("other/canonical"));
    assert_eq!(found("10.60.1.1:80"), None, "not visible");
    assert_eq!(found("[fd00::9]:80").as_deref(), Some("shop/six"));
    assert_eq!(found("[fd00:0:0:1::9]:80"), None);
    assert_eq!(Service::parse(range("bad", "10.0.0.0", 33)).unwrap_err().field, "addresses.length");
}

#[test]
fn of_services_with_one_address_the_visible_the_own_and_the_canonical_are_preferred() {
    let named = |namespace: &str| wire::Service { namespace: namespace.into(), ..service() };
    let canonical = |service: wire::Service| wire::Service { canonical: true, ..service };
    let private = wire::service::Visibility::Namespace.into();
    let found = |services: Vec<wire::Service>| service_of(&World::new(services, vec![]).route("10.96.0.1:80"));
    assert_eq!(found(vec![named("a"), canonical(named("b")), named("shop")]).as_deref(), Some("shop/web"));
    assert_eq!(found(vec![named("a"), canonical(named("b")), named("c")]).as_deref(), Some("b/web"));
    assert_eq!(found(vec![wire::Service { visibility: private, ..canonical(named("b")) }]), None);
}

#[test]
fn passthrough_chooses_no_endpoint_and_keeps_the_clients_address() {
    let mode = wire::load_balancing::Mode::Passthrough.into();
    let through = |address, length| wire::Service {
        load_balancing: Some(wire::LoadBalancing { mode, health_policy: 1, ..Default::default() }),
        ports: vec![],
        ..range("web", address, length)
    };
    let server = of_service(workload("server", "10.0.0.2"), &[(80, 8080)]);
    let world = World::new(vec![through("10.0.0.0", 8)], vec![server]);
    let Ok(Route::Unknown { to, service }) = world.route("10.7.7.7:1234") else { panic!() };
    assert_eq!((to.to_string().as_str(), service.unwrap().key.to_string().as_str()), ("10.7.7.7:1234", "shop/web"));
    // A workload that is known at the address is still reached as one of the mesh.
    let Ok(Route::Hbone { authority, endpoint, .. }) = world.route("10.0.0.2:80") else { panic!() };
    assert_eq!((authority.to_string().as_str(), endpoint), ("10.0.0.2:80", None));
}

#[test]
fn of_workloads_with_one_address_pods_and_the_mesh_are_preferred() {
    let entry = wire::Workload {
        uid: "cluster/networking.istio.io/WorkloadEntry/shop/vm".into(),
        ..workload("vm", "10.0.0.2")
    };
    let plain = wire::Workload { tunnel_protocol: 0, ..workload("plain", "10.0.0.2") };
    let found = |workloads: Vec<wire::Workload>| match World::new(vec![], workloads).route("10.0.0.2:80").unwrap() {
        Route::Hbone { destination, .. } | Route::Plain { destination, .. } => destination.name.to_string(),
        Route::Unknown { .. } => panic!(),
    };
    assert_eq!(found(vec![plain.clone(), entry.clone()]), "plain", "a pod");
    assert_eq!(found(vec![entry, plain.clone()]), "plain", "in any order");
    assert_eq!(found(vec![workload("meshed", "10.0.0.2"), plain]), "meshed");
}

#[test]
fn an_endpoint_is_dialled_under_a_family_of_the_service_the_clients_first() {
    let two = wire::Workload {
        addresses: vec![ip("10.0.0.2").into(), ip("fd00::2").into()],
        ..workload("server", "10.0.0.2")
    };
    let dialled = |families: wire::IpFamilies, target: &str| {
        let address = |text: &str| wire::NetworkAddress { address: ip(text).into(), ..Default::default() };
        let both = wire::Service {
            addresses: vec![address("10.96.0.1"), address("fd96::1")],
            ip_families: families.into(),
            ..service()
        };
        match World::new(vec![both], vec![of_service(two.clone(), &[(80, 0)])]).route(target) {
            Ok(Route::Hbone { authority, .. }) => authority.to_string(),
            other => panic!("{other:?}"),
        }
    };
    for families in [wire::IpFamilies::Automatic, wire::IpFamilies::Dual] {
        assert_eq!(dialled(families, "10.96.0.1:80"), "10.0.0.2:8080");
        assert_eq!(dialled(families, "[fd96::1]:80"), "[fd00::2]:8080");
    }
    assert_eq!(dialled(wire::IpFamilies::Ipv4Only, "[fd96::1]:80"), "10.0.0.2:8080");
    assert_eq!(dialled(wire::IpFamilies::Ipv6Only, "10.96.0.1:80"), "[fd00::2]:8080");
}

#[test]
fn an_endpoint_with_a_name_only_is_asked_for_and_one_with_nothing_is_no_choice() {
    let named = |hostname: &str| wire::Workload {
        addresses: vec![],
        tunnel_protocol: 0,
        hostname: hostname.into(),
        ..of_service(workload("named", "10.0.0.2"), &[(80, 0)])
    };
    let world = World::new(vec![service()], vec![named("DB.example.com.")]);
    let client = world.0.workload_named("shop", "client", "client").unwrap();
    let hosts = DnsCache::default();
    let route = || {
        world.0.route(
            client,
            "10.96.0.1:80".parse().unwrap(),
            SelectionContext { hosts: Some(&hosts), ..SelectionContext::default() },
        )
    };
    let name: Arc<str> = "db.example.com".into();
    assert_eq!(route().unwrap_err(), RouteError::Unresolved(name.clone()));
    hosts.resolved(&name, vec!["192.0.2.9".parse().unwrap()], std::time::Duration::from_secs(60));
    let Ok(Route::Plain { to, .. }) = route() else { panic!() };
    assert_eq!(to.to_string(), "192.0.2.9:8080");

    let with = |other: wire::Workload| World::new(vec![service()], vec![named(""), other]);
    let server = of_service(workload("server", "10.0.0.3"), &[(80, 0)]);
    assert_eq!(with(server).chosen(0.0), "server");
    assert!(World::new(vec![service()], vec![named("")]).route("10.96.0.1:80").is_err());
}

#[test]
fn endpoints_of_the_own_network_are_boosted_where_the_network_comes_first() {
    use wire::load_balancing::Scope::{Network, Region, Zone};
    let placed = |name: &str, address: &str, network: &str, region: &str, zone: &str| wire::Workload {
        network: network.into(),
        locality: Some(wire::Locality { region: region.into(), zone: zone.into(), ..Default::default() }),
        ..of_service(workload(name, address), &[(80, 0)])
    };
    let balancing = wire::LoadBalancing {
        routing_preference: [Network, Region, Zone].map(Into::into).to_vec(),
        mode: wire::load_balancing::Mode::Failover.into(),
        ..Default::default()
    };
    let preferring = wire::Service { load_balancing: Some(balancing), ..service() };
    // The client has neither network, region nor zone.
    let near = placed("near", "10.0.0.3", "", "west", "");
    let best_abroad = placed("abroad", "10.0.0.4", "east", "", "");
    let other_abroad = placed("far", "10.0.0.5", "east", "west", "");
    let chosen = |workloads: Vec<wire::Workload>| {
        let world = World::new(vec![preferring.clone()], workloads);
        match world.route_with("10.96.0.1:80", 0.99) {
            Ok(Route::Hbone { destination, .. }) => destination.name.to_string(),
            Err(RouteError::OtherNetwork(uid, _)) => uid.rsplit('/').next().unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(chosen(vec![best_abroad.clone(), near, other_abroad.clone()]), "near");
    assert_eq!(chosen(vec![other_abroad, best_abroad]), "abroad");
}
