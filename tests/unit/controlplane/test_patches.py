"""EnvoyFilters: what is read of them, how values are merged, what is refused and how that is said."""

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf.message import Message

from controlplane.envoy import names, transport
from controlplane.envoy.filter_chains import Opening
from controlplane.envoy.packing import packed
from controlplane.envoy.patches import additions, chains, clusters, listeners, merging, routes
from controlplane.envoy.patches.patch import Patching
from controlplane.envoy.patches.reading import Reading, read
from meshapi.errors import InvalidResource
from meshapi.resources import base
from meshapi.resources.envoy_filter import ApplyTo, EnvoyFilter

VERSION = "1.2.3"
GATEWAY = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}
ROUTER = {"name": "envoy.filters.http.router"}
LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
MANAGER = {"name": "envoy.filters.network.http_connection_manager"}


def patch(apply_to: str, operation: str = "MERGE", value: Any = None, **match: Any) -> dict[str, Any]:
    change = {"operation": operation} | ({} if value is None else {"value": value})
    return {"applyTo": apply_to, "match": match, "patch": change}


def reading(*patches: dict[str, Any], **spec: Any) -> Reading:
    spec = {"targetRefs": [GATEWAY], "configPatches": list(patches), **spec}
    item = base.read(EnvoyFilter, {"metadata": {"name": "x", "namespace": "shop"}, "spec": spec})
    return read(item, VERSION)


def patching(*patches: dict[str, Any]) -> Patching:
    found = reading(*patches)
    assert not found.problems
    kinds = {one.apply_to for one in found.patches}
    return Patching({kind: tuple(one for one in found.patches if one.apply_to is kind) for kind in kinds})


def problems(patches: Patching) -> list[str]:
    return sorted(one.problem for one in patches.effects if one.problem)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (patch("BOOTSTRAP", value={}), ".applyTo BOOTSTRAP: a waypoint starts with it"),
        (patch("ROUTE_CONFIGURATION", "REMOVE"), ".patch.operation REMOVE has no meaning for ROUTE_CONFIGURATION"),
        (patch("CLUSTER", "REPLACE", {}), ".patch.operation REPLACE has no meaning for CLUSTER"),
        (patch("EXTENSION_CONFIG", "MERGE", {}), "write one of ADD"),
        (patch("HTTP_FILTER", "REMOVE"), ".match.listener.filterChain.filter.subFilter is missing"),
        (patch("NETWORK_FILTER", "REPLACE", {}), ".match.listener.filterChain.filter is missing"),
        (patch("LISTENER_FILTER", "REMOVE"), ".match.listener.listenerFilter is missing"),
        (patch("CLUSTER", value={}, context="GATEWAY"), ".match.context GATEWAY: a waypoint has no CLUSTER of it"),
        (patch("HTTP_ROUTE", value={}, context="SIDECAR_OUTBOUND"), ".match.context SIDECAR_OUTBOUND"),
        (patch("CLUSTER", "ADD", {}, context="SIDECAR_OUTBOUND"), ".match.context SIDECAR_OUTBOUND"),
        (
            patch("CLUSTER", value={}, proxy={"proxyVersion": r"^9\."}),
            r"does not match 1.2.3, the version of waypoints",
        ),
        (patch("CLUSTER", value={}, proxy={"metadata": {"A": "b"}}), ".match.proxy.metadata: all pods"),
        (patch("HTTP_ROUTE", value={}, routeConfiguration={"gateway": "a/b"}), "routeConfiguration.gateway is for"),
        (patch("LISTENER", value={}, listener={"portName": "http"}), ".match.listener.portName is not looked at"),
        (patch("CLUSTER", value={"conectTimeout": "1s"}), "has no field conectTimeout; write connectTimeout"),
        (patch("CLUSTER", value={"connectTimeout": "1"}), 'Duration must end with letter "s"'),
        (patch("CLUSTER", value={"type": "EDSX"}), "Invalid enum value EDSX"),
        (patch("CLUSTER", value={"name": ["x"]}), ".patch.value: "),
        (patch("HTTP_FILTER", "ADD", {"typedConfig": {"inlineCode": "x"}}), "@type is missing"),
        (patch("HTTP_FILTER", "ADD", {"typedConfig": {"@type": 3}}), "@type 3 names none"),
        (patch("HTTP_FILTER", "ADD", {"typedConfig": {"@type": "x/os.path"}}), "@type os.path is not known"),
        (patch("HTTP_FILTER", "ADD", {"typedConfig": {"@type": "x/envoy.nowhere.v3.X"}}), "@type envoy.nowhere.v3.X"),
        (
            patch("HTTP_FILTER", "ADD", {"typedConfig": {"@type": "x/envoy.config.cluster.v3.cluster_pb2.X"}}),
            "@type envoy.config.cluster.v3.cluster_pb2.X is not known",
        ),
        (patch("HTTP_FILTER", "ADD", {"typedConfig": {"@type": "x/envoy.api.v2.Cluster"}}), "write the one of its v3"),
        (patch("HTTP_FILTER", "ADD", {"typedConfig": {"@type": LUA, "x": 1}}), "it has inlineCode"),
    ],
)
def test_what_no_waypoint_can_apply_is_said_with_its_field(given: dict[str, Any], expected: str) -> None:
    found = reading(patch("HTTP_ROUTE", value={"name": "good"}), given)
    [problem] = found.problems
    assert problem.startswith("spec.configPatches[1].")
    assert expected in problem
    assert [one.index for one in found.patches] == [0], "the others count"


def test_the_annotation_for_more_clusters_says_that_it_has_no_effect() -> None:
    metadata = {"name": "x", "namespace": "shop", "annotations": {"envoyfilter.istio.io/referenced-services": "a.io"}}
    [problem] = read(base.read(EnvoyFilter, {"metadata": metadata, "spec": {}}), VERSION).problems
    assert "has no effect" in problem


def test_a_value_of_any_depth_is_a_problem_and_no_crash() -> None:
    value: dict[str, Any] = {}
    for _ in range(5000):
        value = {"metadata": value}
    [problem] = reading(patch("CLUSTER", value=value)).problems
    assert "more than 100 levels" in problem


@pytest.mark.parametrize("kind", ["LISTENER", "LISTENER_FILTER"])
def test_listeners_are_no_services_own(kind: str) -> None:
    service = [{"kind": "Service", "name": "web"}]
    [problem] = reading(patch(kind, "ADD", {}), targetRefs=service).problems
    assert "name the Gateway in targetRefs" in problem
    assert not reading(patch(kind, "ADD", {})).problems


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        (patch("CLUSTER", value={}, listener={}), "spec.configPatches[0]", "write match.cluster"),
        (patch("HTTP_ROUTE", value={}, cluster={}), "spec.configPatches[0]", "write match.routeConfiguration"),
        (patch("HTTP_FILTER", value={}, routeConfiguration={}), "spec.configPatches[0]", "write match.listener"),
        (patch("HTTP_FILTER", value={}, listener={"filterChain": {"filter": {}}}), "spec.configPatches[0]",
         "filter.name is missing"),
        (patch("NETWORK_FILTER", value={}, listener={"filterChain": {"filter": {**MANAGER, "subFilter": ROUTER}}}),
         "spec.configPatches[0]", "for applyTo HTTP_FILTER only"),
        (patch("HTTP_FILTER", value={}, listener={"filterChain": {"filter": {"name": "x", "subFilter": ROUTER}}}),
         "spec.configPatches[0]", "has to be envoy.filters.network.http_connection_manager"),
        (patch("HTTP_FILTER", value={}, listener={"filterChain": {"filter": {**MANAGER, "subFilter": {}}}}),
         "spec.configPatches[0]", "subFilter.name is missing"),
        (patch("CLUSTER", value={}, proxy={"proxyVersion": "("}), "spec.configPatches[0].match.proxy.proxyVersion",
         "not a regular expression"),
        (patch("CLUSTER", value={}, cluster={"portNumber": 70000}),
         "spec.configPatches[0].match.cluster.portNumber", "less than or equal"),
        (patch("CLUSTER", value={}, cluster={}, listener={}), "spec.configPatches[0].match", "exclude each other"),
    ],
)  # fmt: skip
def test_what_istio_refuses_is_refused(given: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        reading(given)
    assert refused.value.field == field
    assert reason in refused.value.reason


def merged(held: Message, given: Message, *, replaces_lists: bool = False) -> Any:
    merging.merge(held, given, replaces_lists=replaces_lists)
    return held


def test_values_are_replaced_as_a_whole_and_lists_joined() -> None:
    held = cluster_pb2.Cluster(name="x", alt_stat_name="old")
    held.connect_timeout.FromMilliseconds(1500)
    held.dns_lookup_family = cluster_pb2.Cluster.V6_ONLY
    held.health_checks.add()
    held.metadata.filter_metadata["a"].update({"kept": 1})
    held.metadata.filter_metadata["b"].update({"replaced": 1})
    held.upstream_connection_options.set_local_interface_name_on_upstream_connections = True
    held.common_lb_config.healthy_panic_threshold.value = 50
    given = cluster_pb2.Cluster(alt_stat_name="new")
    given.connect_timeout.FromSeconds(2)
    given.health_checks.add()
    given.metadata.filter_metadata["b"].update({"new": 1})
    given.common_lb_config.healthy_panic_threshold.SetInParent()
    result = merged(held, given)
    assert result.name == "x"
    assert result.alt_stat_name == "new"
    assert result.connect_timeout.ToMilliseconds() == 2000
    assert len(result.health_checks) == 2
    assert dict(result.metadata.filter_metadata["a"]) == {"kept": 1}
    assert dict(result.metadata.filter_metadata["b"]) == {"new": 1}
    assert result.upstream_connection_options.set_local_interface_name_on_upstream_connections
    assert len(merged(result, given, replaces_lists=True).health_checks) == 1


def test_a_wrapped_value_of_nothing_is_merged() -> None:
    held = http_connection_manager_pb2.HttpConnectionManager()
    held.normalize_path.value = True
    given = http_connection_manager_pb2.HttpConnectionManager()
    given.normalize_path.value = False
    assert not merged(held, given).normalize_path.value


def tls(name: str, sni: str) -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(name=name, typed_config=packed(tls_pb2.UpstreamTlsContext(sni=sni)))


def sni_of(socket: base_pb2.TransportSocket) -> str:
    context = tls_pb2.UpstreamTlsContext()
    assert socket.typed_config.Unpack(context)
    return str(context.sni)


def test_tls_of_a_cluster_is_merged_inside_of_the_tunnel_too() -> None:
    cluster = cluster_pb2.Cluster(name=names.outbound("web.example", 443))
    direct = tls("envoy.transport_sockets.tls", "old")
    cluster.transport_socket_matches.add(name="hbone", transport_socket=transport.internal(direct))
    cluster.transport_socket_matches.add(name="user", transport_socket=direct)
    config = {"@type": "x/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "new"}
    value = {"transportSocket": {"name": "envoy.transport_sockets.tls", "typedConfig": config}, "altStatName": "y"}
    patches = patching(patch("CLUSTER", value=value))
    assert clusters.patched(cluster, patches) is cluster
    assert not problems(patches)
    assert sni_of(cluster.transport_socket_matches[1].transport_socket) == "new"
    assert b"new" in cluster.transport_socket_matches[0].SerializeToString()
    assert not cluster.HasField("transport_socket")
    assert cluster.alt_stat_name == "y"


def test_tls_for_a_cluster_without_tls_is_a_problem() -> None:
    cluster = cluster_pb2.Cluster(name=names.outbound("web.example", 443))
    cluster.transport_socket_matches.extend(transport.socket_matches(None, http2=False))
    value = {"transportSocket": {"name": "envoy.transport_sockets.tls"}}
    patches = patching(patch("CLUSTER", value=value))
    clusters.patched(cluster, patches)
    [problem] = problems(patches)
    assert "has no transport socket envoy.transport_sockets.tls to merge into" in problem


@pytest.mark.parametrize(
    ("name", "match", "fits"),
    [
        (names.outbound("web.example", 443, "v1"), {"cluster": {"service": "web.example", "subset": "v1"}}, True),
        (names.outbound("web.example", 443), {"cluster": {"portNumber": 80}}, False),
        (names.outbound("web.example", 443), {"context": "SIDECAR_OUTBOUND"}, True),
        (names.outbound("web.example", 443), {"context": "SIDECAR_INBOUND"}, False),
        (names.inbound_vip("web", 80, is_http=True), {"context": "SIDECAR_OUTBOUND"}, False),
        (
            names.inbound_vip("web", 80, is_http=True, subset="v1"),
            {"cluster": {"subset": "v1", "service": "web"}},
            True,
        ),
        (names.inbound_vip("web", 80, is_http=True), {"cluster": {"subset": "v1"}}, False),
        (names.inbound_vip("web", 80, is_http=True), {"context": "WAYPOINT", "waypoint": {"portNumber": 80}}, True),
        (names.CONNECT_ORIGINATE, {"cluster": {"name": "connect_originate", "service": "x"}}, True),
        (names.CONNECT_ORIGINATE, {"cluster": {"portNumber": 80}}, False),
    ],
)
def test_which_clusters_a_match_is_for(name: str, match: dict[str, Any], fits: bool) -> None:
    patches = patching(patch("CLUSTER", "REMOVE", **match))
    found = clusters.patched(cluster_pb2.Cluster(name=name), patches)
    assert (found is None) == fits


def test_names_by_which_others_find_something_stay() -> None:
    patches = patching(
        patch("CLUSTER", value={"name": "y"}),
        patch("ROUTE_CONFIGURATION", value={"name": "y"}),
        patch("FILTER_CHAIN", value={"name": "y"}),
        patch("LISTENER", value={"name": "y"}),
    )
    cluster, configuration = cluster_pb2.Cluster(name="x"), route_pb2.RouteConfiguration(name="x")
    chain = listener_components_pb2.FilterChain(name="x")
    listener = listeners.listener_pb2.Listener(name=names.MAIN_INTERNAL)
    clusters.patched(cluster, patches)
    routes.patch(configuration, patches)
    chains.patch_chain(chain, names.MAIN_INTERNAL, 0, patches)
    listeners.patched(listener, patches)
    assert [cluster.name, configuration.name, chain.name] == ["x"] * 3
    assert listener.name == names.MAIN_INTERNAL
    assert all("cannot be changed" in problem for problem in problems(patches))
    assert len(problems(patches)) >= 4


def test_what_is_added_has_a_name_of_its_own() -> None:
    given = ("", "mine", "mine", "outbound|80||other", names.MAIN_INTERNAL)
    patches = patching(*(patch("CLUSTER", "ADD", {"name": name}) for name in given))
    assert [one.name for one in additions.of(patches)] == ["mine"]
    assert len(problems(patches)) == 4


def test_a_chain_that_nothing_leads_to_is_a_problem() -> None:
    patches = patching(patch("FILTER_CHAIN", "ADD", {"name": "new"}))
    listener = listeners.listener_pb2.Listener(name=names.MAIN_INTERNAL)
    listeners.patched(listener, patches)
    assert not listener.filter_chains
    assert problems(patches) == ["main_internal has a chain for each port of a service, and nothing leads to others"]


def test_chains_of_tunnels_are_patched_by_the_name_of_their_listener_only() -> None:
    for name, expected in (("", 0), (names.CONNECT_TERMINATE, 1)):
        listener = listeners.listener_pb2.Listener(name=names.CONNECT_TERMINATE)
        listener.filter_chains.add(name="default")
        listeners.patched(listener, patching(patch("NETWORK_FILTER", "ADD", {"name": "x"}, listener={"name": name})))
        assert len(listener.filter_chains[0].filters) == expected


def test_without_patches_nothing_is_touched() -> None:
    chain = listener_components_pb2.FilterChain(name="x")
    chain.filters.add(name=MANAGER["name"])
    opening = Opening(("10.0.0.1",), 80, http=chain)
    nothing = Patching({})
    [found] = chains.patched([opening], nothing)
    assert found is opening
    assert not nothing.effects


def test_a_chain_of_other_filters_is_left_out_of_http_filters() -> None:
    chain = listener_components_pb2.FilterChain(name="x")
    chain.filters.add(name="envoy.filters.network.tcp_proxy")
    patches = patching(patch("HTTP_FILTER", "ADD", {"name": "lua", "typedConfig": {"@type": LUA}}))
    assert chains.patch_chain(chain, names.MAIN_INTERNAL, 0, patches)
    assert not patches.effects
    assert ApplyTo.HTTP_FILTER in patches.patches
