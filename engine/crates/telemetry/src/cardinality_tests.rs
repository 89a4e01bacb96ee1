//! Threat ``cardinality`` (CVE-2025-43915): what a million words of peers and of applications leave behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed unwrap is a failed test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use culvert_core::proto::engine::{MetricFamily, Sample};
use culvert_core::proto::workload as wire;
use culvert_dns::{Lookup, QueryType, Transport, decide, query};
use culvert_hbone::headers::{BAGGAGE, Baggage};
use culvert_mesh::{Service, ServiceKey, Store, Workload};
use culvert_upstream::{DnsCache, OutlierSettings, Outliers};
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use super::*;

const MANY: usize = 1_000_000;
const MIB: usize = 1 << 20;

/// Held by tests that measure the memory of this process, because tests run in parallel.
static ALONE: Mutex<()> = Mutex::new(());

fn web() -> Workload {
    let wire = wire::Workload { uid: "c//Pod/shop/web".into(), name: "web".into(), ..Default::default() };
    Workload::parse(wire::Workload { workload_name: "web".into(), namespace: "shop".into(), ..wire }).unwrap()
}

/// A connection of a client that only describes itself.
fn described(baggage: &str) -> Flow {
    let mut headers = HeaderMap::new();
    headers.insert(BAGGAGE, HeaderValue::try_from(baggage).unwrap());
    let said = Peer { baggage: Some(Baggage::parse(&headers).into()), ..Peer::default() };
    Flow { source: said, ..from(Peer::default()) }
}

fn from(source: Peer) -> Flow {
    Flow {
        direction: Direction::Inbound,
        security: Security::MutualTls,
        source_address: SocketAddr::from(([10, 0, 0, 1], 4000)),
        destination_address: SocketAddr::from(([10, 0, 0, 2], 15008)),
        hbone_address: None,
        source,
        destination: Peer { workload: Some(web().into()), ..Peer::default() },
        service: None,
        extra: None,
    }
}

fn count(metrics: &Metrics, flow: &Flow) {
    metrics.series(flow, ResponseFlag::None).opened.fetch_add(1, Ordering::Relaxed);
}

fn opened(metrics: &Metrics) -> MetricFamily {
    metrics.families().families.into_iter().find(|family| family.name == "istio_tcp_connections_opened").unwrap()
}

fn evicted(metrics: &Metrics) -> u64 {
    let families = metrics.families().families;
    families.iter().find(|family| family.name == "culvert_metric_series_evicted").unwrap().samples[0].value
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_million_peers_that_describe_themselves_make_a_bounded_number_of_series() {
    let _alone = ALONE.lock();
    let (metrics, before) = (Metrics::new(&SeriesSettings::default()), resident());
    let long = "x".repeat(200);
    let describe = |number: usize| described(&format!("service.name={number},k8s.pod.name={number}{long}"));
    std::thread::scope(|scope| {
        for core in 0..2 {
            let (metrics, describe) = (&metrics, &describe);
            scope.spawn(move || (core..MANY).step_by(2).for_each(|number| count(metrics, &describe(number))));
        }
    });
    let known = from(Peer { workload: Some(web().into()), ..Peer::default() });
    (0..7).for_each(|_| count(&metrics, &known));
    let samples = opened(&metrics).samples;
    assert!((2_000..2_010).contains(&samples.len()), "{} series", samples.len());
    assert_eq!(samples.iter().map(|sample| sample.value).sum::<u64>(), MANY as u64 + 7, "all are counted");
    let by_name = |sample: &&Sample| sample.label_values.get(1).is_some_and(|source| source == "web");
    assert_eq!(samples.iter().find(by_name).map(|sample| sample.value), Some(7), "those that are known, by name");
    let grown = resident().saturating_sub(before) / MIB;
    assert!(grown < 48, "{grown} MiB");
}

/// Peers that the control plane knows, such as pods that come and go: 10,000 at a time, for as long as it takes until the
/// next ones come.
#[test]
fn a_million_peers_that_come_and_go_leave_memory_flat_and_open_connections_their_series() {
    const AT_ONCE: usize = 10_000;
    let _alone = ALONE.lock();
    let idle_timeout = Duration::from_secs(30 * 60);
    let metrics = Metrics::new(&SeriesSettings { idle_timeout: Some(idle_timeout), ..SeriesSettings::default() });
    let peer = |name: String| {
        let wire =
            wire::Workload { uid: name.clone(), workload_name: name, namespace: "shop".into(), ..Default::default() };
        from(Peer { workload: Some(Workload::parse(wire).unwrap().into()), ..Peer::default() })
    };
    let open = metrics.series(&peer("open".into()), ResponseFlag::None);
    open.opened.fetch_add(1, Ordering::Relaxed);
    let mut now = Instant::now();
    let mut memory = 0;
    for round in 0..MANY / AT_ONCE {
        (0..AT_ONCE).for_each(|number| count(&metrics, &peer(format!("{round}-{number}"))));
        count(&metrics, &peer("busy".into()));
        for _ in 0..4 {
            now += idle_timeout / 4;
            metrics.sweep(now);
        }
        count(&metrics, &peer("busy".into()));
        now += idle_timeout / 4;
        metrics.sweep(now);
        if round == 2 {
            memory = resident();
        }
    }
    let left = opened(&metrics).samples;
    let value = |name: &str| left.iter().find(|sample| sample.label_values[1] == name).map(|sample| sample.value);
    assert_eq!(left.len(), 2, "of a million only those in use are left");
    assert_eq!(value("busy"), Some(2 * (MANY / AT_ONCE) as u64), "used again before it was idle for long");
    assert_eq!(value("open"), Some(1), "idle, but a connection is open");
    assert_eq!(evicted(&metrics), MANY as u64, "each had a series of its own, none was counted as unknown");
    let grown = resident().saturating_sub(memory) / MIB;
    assert!(grown < 16, "{grown} MiB");
    drop(open);
    metrics.sweep(now + idle_timeout / 2);
    assert_eq!(opened(&metrics).samples.len(), 2, "idle since the connection has closed, not since it was opened");
    metrics.sweep(now + 2 * idle_timeout);
    assert_eq!(opened(&metrics).samples.len(), 0);
}

#[test]
fn series_of_peers_that_describe_themselves_make_way_for_others_once_they_are_idle() {
    let _alone = ALONE.lock();
    let idle_timeout = Duration::from_secs(60);
    let metrics = Metrics::new(&SeriesSettings { idle_timeout: Some(idle_timeout), ..SeriesSettings::default() });
    let mut now = Instant::now();
    for round in 0..3 {
        (0..2_000).for_each(|number| count(&metrics, &described(&format!("service.name={round}-{number}"))));
        let samples = opened(&metrics).samples;
        assert_eq!(
            samples.iter().filter(|sample| sample.label_values[2].starts_with(&format!("{round}-"))).count(),
            2_000
        );
        for _ in 0..2 {
            now += idle_timeout;
            metrics.sweep(now);
        }
    }
}

#[test]
fn without_an_idle_timeout_nothing_is_evicted() {
    let metrics = Metrics::new(&SeriesSettings::default());
    count(&metrics, &from(Peer::default()));
    metrics.sweep(Instant::now() + Duration::from_secs(1_000_000));
    assert_eq!(opened(&metrics).samples.len(), 1);
    assert_eq!(evicted(&metrics), 0);
}

#[test]
fn series_that_differ_only_in_excluded_labels_are_one() {
    let labels = LabelSelection::without(&["source_workload".into(), "destination_zone".into()]);
    let metrics = Metrics::new(&SeriesSettings { labels, ..SeriesSettings::default() });
    for name in ["a", "b"] {
        let wire = wire::Workload { uid: name.into(), workload_name: name.into(), ..Default::default() };
        let wire = wire::Workload { namespace: "shop".into(), ..wire };
        count(&metrics, &from(Peer { workload: Some(Workload::parse(wire).unwrap().into()), ..Peer::default() }));
    }
    let family = opened(&metrics);
    assert_eq!(family.label_names.len(), 25);
    assert!(!family.label_names.iter().any(|name| name == "source_workload" || name == "destination_zone"));
    let sample = family.samples.first().unwrap();
    assert_eq!((family.samples.len(), sample.value, sample.label_values.len()), (1, 2, 25));
    let of =
        |label: &str| sample.label_values[family.label_names.iter().position(|name| name == label).unwrap()].as_str();
    assert_eq!((of("reporter"), of("destination_workload"), of("request_protocol")), ("destination", "web", "tcp"));
}

#[test]
fn a_million_names_of_endpoints_are_counted_in_a_bounded_number_of_series() {
    let (metrics, source) = (OnDemandDns::default(), web());
    for number in 0..MANY {
        metrics.count(&source, &format!("{number}.example.com").into());
    }
    let samples = metrics.family().samples;
    assert_eq!(samples.len(), 1_001);
    assert_eq!(samples.iter().map(|sample| sample.value).sum::<u64>(), MANY as u64);
}

/// The time that this thread has had a processor (`/proc/thread-self/schedstat`): it does not grow on a busy machine.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Also in time: a full table was searched for each name that found no room in it.
#[tokio::test(start_paused = true)]
async fn a_million_hosts_and_endpoints_that_fail_are_remembered_in_bounds() {
    let _alone = ALONE.lock();
    let settings = OutlierSettings { failures: 1, base: Duration::from_secs(30), max_percent: 50 };
    let (hosts, outliers, before) = (DnsCache::default(), Outliers::new(settings), resident());
    let began = on_processor();
    for number in 0..u32::try_from(MANY).unwrap() {
        hosts.failed(&number.to_string().into());
        outliers.failed(SocketAddr::from((Ipv4Addr::from(number), 80)));
    }
    let took = on_processor() - began;
    assert!(took < Duration::from_secs(60), "{took:?}");
    let counts = outliers.families().map(|family| family.samples.first().unwrap().value);
    assert_eq!(counts, [4096, 4096], "ejections, and those that are active");
    assert!(resident().saturating_sub(before) / MIB < 32);
}

#[test]
fn hosts_that_come_and_go_a_million_times_leave_nothing_behind() {
    let _alone = ALONE.lock();
    let (mut store, before) = (Store::default(), resident());
    let key = |number: usize| ServiceKey::new("shop", &format!("{number}.example.com"));
    for number in 0..MANY {
        let address = u32::try_from(number).unwrap().to_be_bytes().to_vec();
        let addresses = vec![wire::NetworkAddress { address: address.into(), ..Default::default() }];
        let hostname = format!("{number}.example.com");
        let service = wire::Service { hostname, namespace: "shop".into(), addresses, ..Default::default() };
        store.insert_service(Service::parse(service).unwrap());
        if let Some(old) = number.checked_sub(1_000) {
            assert!(store.remove_service(&key(old)));
        }
    }
    assert_eq!(store.services().count(), 1_000);
    let grown = resident().saturating_sub(before) / MIB;
    assert!(grown < 16, "{grown} MiB");
}

/// Subscriptions to anything, by any type.
#[test]
fn queries_of_all_types_make_a_bounded_number_of_series() {
    let metrics = DnsMetrics::default();
    for number in 0..=u16::MAX {
        let packet = query(&format!("{number}.example.com"), QueryType(number)).unwrap();
        let decision = decide(&packet, Transport::Udp, |_, _| Lookup::Unknown);
        let kind = decision.question.unwrap().query_type;
        metrics.series(kind, Transport::Udp, None).requests.fetch_add(1, Ordering::Relaxed);
    }
    let samples = {
        let [requests, ..] = metrics.families();
        requests.samples
    };
    assert_eq!(samples.len(), 16);
    assert_eq!(samples.iter().map(|sample| sample.value).sum::<u64>(), 1 << 16);
}
