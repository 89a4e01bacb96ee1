#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use culvert_core::proto::workload as wire;
use culvert_core::proto::workload::gateway_address::Destination;
use culvert_upstream::{OutlierSettings, Outliers};

use super::*;
use crate::ServiceKey;

fn ip(text: &str) -> Vec<u8> {
    match text.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn workload(name: &str, address: &str) -> wire::Workload {
    wire::Workload {
        uid: format!("cluster//Pod/shop/{name}"),
        name: name.into(),
        namespace: "shop".into(),
        service_account: name.into(),
        addresses: vec![ip(address).into()],
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        ..Default::default()
    }
}

fn of_service(mut workload: wire::Workload, ports: &[(u32, u32)]) -> wire::Workload {
    let ports =
        ports.iter().map(|&(service_port, target_port)| wire::Port { service_port, target_port, ..Default::default() });
    workload.services.insert("shop/web".into(), wire::PortList { ports: ports.collect() });
    workload
}

fn service() -> wire::Service {
    wire::Service {
        name: "web".into(),
        namespace: "shop".into(),
        hostname: "web".into(),
        addresses: vec![wire::NetworkAddress { address: ip("10.96.0.1").into(), ..Default::default() }],
        ports: vec![wire::Port { service_port: 80, target_port: 8080, ..Default::default() }],
        ..Default::default()
    }
}

struct World(Store);

impl World {
    fn new(services: Vec<wire::Service>, workloads: Vec<wire::Workload>) -> Self {
        let mut store = Store::default();
        store.insert_workload(Workload::parse(workload("client", "10.0.0.1")).unwrap());
        for workload in workloads {
            store.insert_workload(Workload::parse(workload).unwrap());
        }
        for service in services {
            store.insert_service(Service::parse(service).unwrap());
        }
        Self(store)
    }

    fn route(&self, target: &str) -> Result<Route, RouteError> {
        self.route_with(target, 0.0)
    }

    fn route_with(&self, target: &str, random: f64) -> Result<Route, RouteError> {
        let client = self.0.workload_named("shop", "client", "client").unwrap();
        self.0.route(client, target.parse().unwrap(), SelectionContext { random, ..SelectionContext::default() })
    }

    /// Name of the chosen workload.
    fn chosen(&self, random: f64) -> String {
        match self.route_with("10.96.0.1:80", random).unwrap() {
            Route::Hbone { destination, .. } | Route::Plain { destination, .. } => destination.name.to_string(),
            Route::Unknown { to, .. } => to.to_string(),
        }
    }
}

#[test]
fn a_pod_of_the_mesh_is_reached_through_its_tunnel() {
    let world = World::new(vec![], vec![workload("server", "10.0.0.2")]);
    let Route::Hbone { peer, authority, identities, .. } = world.route("10.0.0.2:8080").unwrap() else { panic!() };
    assert_eq!((peer.to_string(), authority.to_string()), ("10.0.0.2:15008".into(), "10.0.0.2:8080".into()));
    assert_eq!(
        identities.iter().map(Identity::as_str).collect::<Vec<_>>(),
        ["spiffe://cluster.local/ns/shop/sa/server"]
    );
}

#[test]
fn others_are_reached_as_they_are() {
    let plain = wire::Workload { tunnel_protocol: 0, ..workload("server", "10.0.0.2") };
    let world = World::new(vec![], vec![plain]);
    assert!(matches!(world.route("10.0.0.2:80"), Ok(Route::Plain { .. })));
    assert!(matches!(world.route("1.2.3.4:80"), Ok(Route::Unknown { .. })));
}

#[test]
fn a_service_address_becomes_an_endpoint_and_its_port() {
    let world = World::new(vec![service()], vec![of_service(workload("server", "10.0.0.2"), &[(80, 0)])]);
    let Route::Hbone { authority, service, .. } = world.route("10.96.0.1:80").unwrap() else { panic!() };
    assert_eq!(authority.to_string(), "10.0.0.2:8080");
    assert_eq!(service.unwrap().key.to_string(), "shop/web");
    assert_eq!(world.route("10.96.0.1:81").unwrap_err(), RouteError::NoPort("shop/web".into(), 81));
}

#[test]
fn a_named_port_is_each_endpoints_own() {
    let named = wire::Service { ports: vec![wire::Port { service_port: 80, ..Default::default() }], ..service() };
    let with = of_service(workload("server", "10.0.0.2"), &[(80, 9090)]);
    let world = World::new(vec![named.clone()], vec![with]);
    let Route::Hbone { authority, .. } = world.route("10.96.0.1:80").unwrap() else { panic!() };
    assert_eq!(authority.port(), 9090);
    let without = World::new(vec![named], vec![of_service(workload("server", "10.0.0.2"), &[])]);
    assert_eq!(without.route("10.96.0.1:80").unwrap_err(), RouteError::NoEndpoint("shop/web".into()));
}

#[test]
fn endpoints_are_chosen_by_health_and_weight() {
    let endpoint = |name: &str, address: &str| of_service(workload(name, address), &[(80, 0)]);
    let sick = wire::Workload { status: wire::WorkloadStatus::Unhealthy.into(), ..endpoint("sick", "10.0.0.2") };
    let heavy = wire::Workload { capacity: Some(3), ..endpoint("heavy", "10.0.0.3") };
    let world = World::new(vec![service()], vec![sick.clone(), heavy, endpoint("light", "10.0.0.4")]);
    assert_eq!([0.0, 0.74, 0.76].map(|random| world.chosen(random)), ["heavy", "heavy", "light"]);

    let only_sick = World::new(vec![service()], vec![sick.clone()]);
    assert!(only_sick.route("10.96.0.1:80").is_err());
    let mut publish = service();
    publish.load_balancing = Some(wire::LoadBalancing { health_policy: 1, ..Default::default() });
    assert_eq!(World::new(vec![publish], vec![sick]).chosen(0.0), "sick");
}

#[test]
fn what_was_tried_or_is_ejected_is_not_chosen_while_there_is_another() {
    let endpoint = |number: u8| of_service(workload(&format!("s{number}"), &format!("10.0.0.{number}")), &[(80, 0)]);
    let world = World::new(vec![service()], (2..6).map(endpoint).collect());
    let client = world.0.workload_named("shop", "client", "client").unwrap();
    let outliers =
        Outliers::new(OutlierSettings { failures: 1, base: std::time::Duration::from_secs(30), max_percent: 50 });
    let at = |number: u8| SocketAddr::from(([10, 0, 0, number], 8080));
    let all = |tried: &[SocketAddr]| -> Vec<String> {
        let ejected = outliers.ejected();
        let chosen = |step: u8| {
            let choice =
                SelectionContext { random: f64::from(step) / 100.0, tried, ejected: ejected.as_deref(), hosts: None };
            world.0.route(client, "10.96.0.1:80".parse().unwrap(), choice)
        };
        let mut found: Vec<_> = (0..100)
            .map(|step| {
                chosen(step).map_or_else(|e| e.to_string(), |route| route.endpoint().unwrap().address.to_string())
            })
            .collect();
        found.dedup();
        found
    };
    let named = |numbers: &[u8]| numbers.iter().map(|&number| at(number).to_string()).collect::<Vec<_>>();

    assert_eq!(all(&[]), named(&[2, 3, 4, 5]));
    assert_eq!(all(&[at(2), at(3)]), named(&[4, 5]));
    outliers.failed(at(4));
    assert_eq!(all(&[]), named(&[2, 3, 5]));
    // All but one have been tried, and that one is ejected: better than nothing.
    assert_eq!(all(&[at(2), at(3), at(5)]), named(&[4]));
    assert_eq!(all(&[at(2), at(3), at(4), at(5)]), ["no healthy upstream: service shop/web"]);
    // Half of four at most.
    [2, 3, 5].map(at).into_iter().for_each(|endpoint| outliers.failed(endpoint));
    assert_eq!(all(&[]).len(), 2);
}

#[test]
fn near_endpoints_are_preferred_and_strict_takes_no_others() {
    let near = wire::Workload {
        locality: Some(wire::Locality::default()),
        ..of_service(workload("near", "10.0.0.2"), &[(80, 0)])
    };
    let elsewhere = wire::Locality { region: "far".into(), ..Default::default() };
    let far = wire::Workload { locality: Some(elsewhere), ..of_service(workload("far", "10.0.0.3"), &[(80, 0)]) };
    let balanced = |mode| {
        let scopes = vec![wire::load_balancing::Scope::Region.into()];
        let balancing = wire::LoadBalancing { routing_preference: scopes, mode, ..Default::default() };
        wire::Service { load_balancing: Some(balancing), ..service() }
    };
    let failover = wire::load_balancing::Mode::Failover.into();
    let strict = wire::load_balancing::Mode::Strict.into();
    assert_eq!(World::new(vec![balanced(failover)], vec![near, far.clone()]).chosen(0.99), "near");
    assert_eq!(World::new(vec![balanced(failover)], vec![far.clone()]).chosen(0.99), "far");
    assert!(World::new(vec![balanced(strict)], vec![far]).route("10.96.0.1:80").is_err());
}

#[test]
fn a_service_with_a_waypoint_is_reached_through_it_and_the_waypoint_itself_goes_on() {
    let with = wire::Service { waypoint: Some(waypoint()), ..service() };
    let (way, instance) = (service_of_waypoint(), instance_of_waypoint("way", "10.0.0.7"));
    let server = of_service(workload("server", "10.0.0.2"), &[(80, 0)]);

    let world = World::new(vec![with.clone(), way.clone()], vec![instance.clone(), server.clone()]);
    let Route::Hbone { peer, authority, .. } = world.route("10.96.0.1:80").unwrap() else { panic!() };
    assert_eq!((peer.to_string(), authority.to_string()), ("10.0.0.7:15008".into(), "10.96.0.1:80".into()));
    let source = world.0.workload_named("shop", "way", "way").unwrap();
    let Route::Hbone { authority, .. } =
        world.0.route(source, "10.96.0.1:80".parse().unwrap(), SelectionContext::default()).unwrap()
    else {
        panic!()
    };
    assert_eq!(authority.to_string(), "10.0.0.2:8080");

    // An unknown waypoint must not be bypassed.
    let without = World::new(vec![with], vec![server]);
    assert_eq!(without.route("10.96.0.1:80").unwrap_err(), RouteError::NoWaypoint("shop/web".into()));
}

fn waypoint() -> wire::GatewayAddress {
    let hostname = wire::NamespacedHostname { namespace: "shop".into(), hostname: "way".into() };
    wire::GatewayAddress { destination: Some(Destination::Hostname(hostname)), hbone_mtls_port: 15008 }
}

fn instance_of_waypoint(name: &str, ip: &str) -> wire::Workload {
    let mut instance = workload(name, ip);
    instance.services.insert("shop/way".into(), wire::PortList::default());
    instance
}

fn service_of_waypoint() -> wire::Service {
    wire::Service {
        hostname: "way".into(),
        addresses: vec![],
        ports: vec![wire::Port { service_port: 15008, target_port: 15008, ..Default::default() }],
        ..service()
    }
}

#[test]
fn connections_are_spread_over_all_ready_pods_of_a_waypoint() {
    let with = wire::Service { waypoint: Some(waypoint()), ..service() };
    let down = wire::Workload { status: 1, ..instance_of_waypoint("down", "10.0.0.9") };
    let instances = [("one", "10.0.0.7"), ("two", "10.0.0.8")].map(|(name, ip)| instance_of_waypoint(name, ip));
    let world = World::new(vec![with, service_of_waypoint()], [instances.to_vec(), vec![down]].concat());
    let chosen: std::collections::BTreeSet<_> = (0..100).map(|n| world.chosen(f64::from(n) / 100.0)).collect();
    assert_eq!(chosen.into_iter().collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_workloads_waypoint_is_for_its_own_address_not_for_its_services() {
    let server =
        wire::Workload { waypoint: Some(waypoint()), ..of_service(workload("server", "10.0.0.2"), &[(80, 0)]) };
    let world =
        World::new(vec![service(), service_of_waypoint()], vec![instance_of_waypoint("way", "10.0.0.7"), server]);
    let peer = |target: &str| {
        let Route::Hbone { peer, authority, .. } = world.route(target).unwrap() else { panic!() };
        (peer.to_string(), authority.to_string())
    };
    assert_eq!(peer("10.0.0.2:8080"), ("10.0.0.7:15008".into(), "10.0.0.2:8080".into()));
    assert_eq!(peer("10.96.0.1:80"), ("10.0.0.2:15008".into(), "10.0.0.2:8080".into()));
}

#[test]
fn another_network_is_not_dialled_directly() {
    let mut other = of_service(workload("server", "10.0.0.2"), &[(80, 0)]);
    other.network = "east".into();
    let world = World::new(vec![service()], vec![other]);
    assert!(matches!(world.route("10.96.0.1:80"), Err(RouteError::OtherNetwork(_, _))));
}

#[test]
fn workloads_may_come_before_their_service_and_go_without_a_trace() {
    let mut world = World::new(vec![], vec![of_service(workload("server", "10.0.0.2"), &[(80, 0)])]);
    world.0.insert_service(Service::parse(service()).unwrap());
    assert_eq!(world.chosen(0.0), "server");
    // The same pod with another address: the old one has no owner.
    world.0.insert_workload(Workload::parse(of_service(workload("server", "10.0.0.5"), &[(80, 0)])).unwrap());
    assert!(matches!(world.route("10.0.0.2:80"), Ok(Route::Unknown { .. })));
    assert_eq!(world.chosen(0.0), "server");
    assert!(world.0.remove_workload("cluster//Pod/shop/server"));
    assert!(world.route("10.96.0.1:80").is_err());
    assert!(world.0.remove_service(&ServiceKey::new("shop", "web")));
    assert!(matches!(world.route("10.96.0.1:80"), Ok(Route::Unknown { .. })));
}

#[test]
fn pods_of_the_host_network_are_not_found_by_address() {
    let host = wire::Workload { network_mode: wire::NetworkMode::HostNetwork.into(), ..workload("agent", "10.0.0.2") };
    assert!(matches!(World::new(vec![], vec![host]).route("10.0.0.2:80"), Ok(Route::Unknown { .. })));
}

#[test]
fn bad_workloads_and_services_are_refused_by_field() {
    let bad = |workload: wire::Workload| Workload::parse(workload).unwrap_err().field;
    assert_eq!(bad(wire::Workload { addresses: vec![vec![1, 2, 3].into()], ..workload("x", "10.0.0.2") }), "addresses");
    assert_eq!(bad(wire::Workload { tunnel_protocol: 2, ..workload("x", "10.0.0.2") }), "tunnel_protocol");
    assert_eq!(bad(wire::Workload { status: 7, ..workload("x", "10.0.0.2") }), "status");
    let service = wire::Service { waypoint: Some(wire::GatewayAddress::default()), ..service() };
    assert_eq!(Service::parse(service).unwrap_err().field, "waypoint");
}

#[path = "selection_tests.rs"]
mod selection;
