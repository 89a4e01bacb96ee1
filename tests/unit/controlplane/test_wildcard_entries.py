"""Wildcard hosts of ServiceEntries at waypoints: what they are as services, and that clients choose no other names."""

from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2

from controlplane.envoy import by_name, clusters, filter_chains
from controlplane.envoy.filter_chains import Filters
from controlplane.envoy.routes import Upstream
from controlplane.envoy.telemetry.reporting import Reports
from controlplane.inputs.mesh import MeshContext
from controlplane.routing import entries
from controlplane.routing.destinations import Policy
from controlplane.routing.ir import ConnectionRule, Origin, Share, Target
from controlplane.routing.services import Discovery, Port, Protocol, Service
from meshapi.resources import base, networking
from tests.support import kubernetes_objects as objects

NAMED = Service("ServiceEntry", ("shop", "x"), "*.example.com", ("10.0.0.1",), (), Discovery.NAMED)
TLS = Port(443, "tls", Protocol.TLS, target=8443)


def entry(**options: Any) -> networking.ServiceEntry:
    given = {"hosts": ["*.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], **options}
    return base.read(networking.ServiceEntry, objects.service_entry("x", **given))


@pytest.mark.parametrize(
    ("resolution", "discovery"),
    [
        ("NONE", Discovery.CALLED),
        ("STATIC", Discovery.LISTED),
        ("DNS", Discovery.DNS),
        ("DYNAMIC_DNS", Discovery.NAMED),
    ],
)
def test_a_wildcard_is_one_service(resolution: str, discovery: Discovery) -> None:
    item = entry(resolution=resolution)
    [service] = entries.of_entry(item)
    assert (service.host, service.discovery, service.ports[0].target) == ("*.example.com", discovery, 80)
    assert list(entries.listed(item, service.host, MeshContext())) == [], "it is no endpoint itself"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        (
            {"ports": [{"number": 1, "name": "tcp", "protocol": "TCP"}]},
            ["spec.ports[0] 1 (TCP): with DYNAMIC_DNS only"],
        ),
        ({"ports": [{"number": 1, "name": "db", "protocol": "MYSQL"}]}, ["spec.ports[0] 1 (TCP)"]),
        ({"ports": [{"number": 1, "name": "tls", "protocol": "TLS"}]}, []),
        ({"endpoints": [{"address": "10.0.0.1"}]}, ["spec.endpoints and spec.workloadSelector have no effect"]),
    ],
)
def test_what_a_waypoint_cannot_do_is_said(options: dict[str, Any], expected: list[str]) -> None:
    found = list(entries.problems(entry(resolution="DYNAMIC_DNS", **options)))
    assert len(found) == len(expected)
    assert all(words in message for words, message in zip(expected, found, strict=True))
    assert not list(entries.problems(entry(resolution="STATIC", **options)))


def opening(*rules: ConnectionRule) -> filter_chains.Opening:
    def upstreams(target: Target) -> Upstream:
        return Upstream(target.host)

    return filter_chains.of_port(NAMED, TLS, rules, upstreams, filters=Filters(), reports=Reports())


def filters_of(chain: Any) -> list[str]:
    return [one.name.rpartition(".")[2] for one in chain.filters]


def test_only_names_of_the_service_are_resolved() -> None:
    found = opening()
    [named] = found.named
    assert named.server_names == ("*.example.com",)
    assert filters_of(named.chain) == ["sni_dynamic_forward_proxy", "resolved_addresses", "tcp_proxy"]
    assert found.tcp is not None
    assert filters_of(found.tcp) == ["tcp_proxy"]
    assert b"BlackHoleCluster" in found.tcp.SerializeToString()


def test_rules_for_other_names_resolve_nothing() -> None:
    origin, to = Origin("TLSRoute", ("shop", "r"), "spec.rules[0]"), (Share(Target("*.example.com", 443)),)
    names = (("a.example.com",), ("a.example.com", "other.test"), ())
    found = opening(*(ConnectionRule(origin, to, server_names=one, source_namespace="dev") for one in names))
    assert [filters_of(one.chain)[0] for one in found.named] == ["sni_dynamic_forward_proxy", "tcp_proxy", "tcp_proxy"]


def test_routes_are_for_the_names_of_the_service() -> None:
    routes = route_pb2.RouteConfiguration()
    routes.virtual_hosts.add(name="x", domains=["*"])
    by_name.restrict(routes, NAMED)
    assert list(routes.virtual_hosts[0].domains) == ["*.example.com"]
    assert routes.ignore_port_in_host_matching


def test_the_certificate_has_to_be_for_the_name() -> None:
    cluster = clusters.of_service("x", NAMED, TLS, "", Policy())
    assert cluster.cluster_type.name == "envoy.clusters.dynamic_forward_proxy"
    options = clusters.http_protocol_options_pb2.HttpProtocolOptions()
    assert cluster.typed_extension_protocol_options[clusters.PROTOCOL_OPTIONS].Unpack(options)
    assert options.upstream_http_protocol_options.auto_sni
    assert options.upstream_http_protocol_options.auto_san_validation
