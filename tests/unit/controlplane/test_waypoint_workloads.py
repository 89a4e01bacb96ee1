"""Workloads at a waypoint: which there are, and what a change of one sends to the proxy."""

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from xds.type.matcher.v3 import ip_pb2

from controlplane.ambient.model import create
from controlplane.envoy import dispatch, layer7
from controlplane.envoy.filter_chains import Opening
from controlplane.inputs.mesh import MeshContext
from controlplane.routing import workloads
from controlplane.xds import worlds
from meshapi import names
from meshapi.resources import base, core, gateway, networking, security
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put, remove

USE = {names.USE_WAYPOINT_LABEL: "waypoint"}
WAYPOINT = ("shop", "waypoint")
MESH = MeshContext()


def pod(name: str = "web-1", ip: str = "10.0.0.1", *more: str, **options: Any) -> core.Pod:
    labels = options.pop("labels", USE)
    created = options.pop("created", "")
    item = objects.pod(name, ip=ip, labels=labels, **options)
    item["metadata"]["creationTimestamp"] = created
    item["status"]["podIPs"] = [{"ip": one} for one in (ip, *more) if one]
    return base.read(core.Pod, item)


def entry(name: str = "vm", address: str = "10.0.0.1", **labels: str) -> networking.WorkloadEntry:
    metadata = {"name": name, "namespace": "shop", "labels": USE}
    return base.read(networking.WorkloadEntry, {"metadata": metadata, "spec": {"address": address, "labels": labels}})


def waypoint(handles: str = "workload", namespace: str = "shop", **options: Any) -> gateway.Gateway:
    labels = {names.WAYPOINT_FOR_LABEL: handles}
    return base.read(gateway.Gateway, objects.gateway("waypoint", namespace, labels=labels, **options))


class World:
    """What the proxy of a waypoint sees."""

    def __init__(self, *items: base.Object) -> None:
        self.model = create(MESH)
        self.worlds = worlds.create(layer7.create(self.model))
        for name in ("shop", "dev"):
            space = base.read(core.Namespace, objects.namespace(name))
            self.model.inputs.namespaces.set(space.key, space)
        self.put(*items)

    def put(self, *items: base.Object) -> None:
        put(self.model, *items)
        self._publish()

    def remove(self, *items: base.Object) -> None:
        remove(self.model, *items)
        self._publish()

    def _publish(self) -> None:
        self.model.flush()
        assert not self.model.graph.take_failures()
        self.worlds.publish(is_settled=True)

    def cluster(self, address: str) -> cluster_pb2.Cluster | None:
        """The cluster of an address."""
        found = self.worlds.view(WAYPOINT).lookup(names.CLUSTER_TYPE, f"encap|{address}")
        return None if found is None else cluster_pb2.Cluster.FromString(found.body)

    @property
    def addresses(self) -> set[str]:
        """Those that have a cluster."""
        found = (one.name for one in self.worlds.view(WAYPOINT).all(names.CLUSTER_TYPE))
        return {name.removeprefix("encap|") for name in found if name.startswith("encap|")}

    @property
    def chains(self) -> set[str]:
        """The names of the filter chains that route."""
        found = self.worlds.view(WAYPOINT).lookup(names.LISTENER_TYPE, "main_internal")
        assert found is not None
        return {one.name for one in listener_pb2.Listener.FromString(found.body).filter_chains}

    def changes(self, *items: base.Object, gone: tuple[base.Object, ...] = ()) -> set[str]:
        """The names of what is sent to the proxy for a change."""
        sent: set[str] = set()
        stop = self.worlds.view(WAYPOINT).watch(lambda _, changed: sent.update(changed))
        self.put(*items)
        if gone:
            self.remove(*gone)
        stop()
        return sent


def workload_of(cluster: cluster_pb2.Cluster | None) -> str:
    assert cluster is not None
    return str(dict(cluster.metadata.filter_metadata["culvert.telemetry"])["workload"])


def test_a_pod_is_called_by_each_of_its_addresses() -> None:
    found = workloads.of_pod(pod("web-1", "10.0.0.1", "fd00:0::1", captured=True), MESH)
    assert [(one.address, one.has_tunnel) for one in found] == [("10.0.0.1", True), ("fd00::1", True)]
    assert found[0].identity == "spiffe://cluster.local/ns/shop/sa/default"


@pytest.mark.parametrize("options", [{"host_network": True}, {"phase": "Succeeded"}, {"ip": ""}])
def test_pods_that_have_no_address_of_their_own_are_not_called(options: dict[str, Any]) -> None:
    assert workloads.of_pod(pod(**options), MESH) == ()


@pytest.mark.parametrize(
    "address",
    ["vm.example", "127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "::ffff:127.0.0.1"],
)
def test_entries_that_would_lead_into_the_waypoints_own_pod_are_not_called(address: str) -> None:
    assert workloads.of_workload_entry(entry(address=address), MESH) == ()


def test_an_entry_may_speak_hbone_itself() -> None:
    [plain] = workloads.of_workload_entry(entry(), MESH)
    [tunnelled] = workloads.of_workload_entry(entry(**{names.TUNNEL_LABEL: names.TUNNEL_LABEL_HTTP}), MESH)
    assert (plain.has_tunnel, tunnelled.has_tunnel) == (False, True)


@pytest.mark.parametrize(
    ("handles", "addresses", "chains"),
    [
        ("workload", {"10.0.0.1"}, {"direct-http", "direct-tcp"}),
        ("all", {"10.0.0.1"}, {"direct-http", "direct-tcp"}),
        ("service", set(), set()),
        ("none", set(), set()),
    ],
)
def test_only_waypoints_for_workloads_serve_them(handles: str, addresses: set[str], chains: set[str]) -> None:
    world = World(waypoint(handles), pod())
    assert (world.addresses, world.chains) == (addresses, chains)


def test_what_is_not_attached_or_not_admitted_is_not_served() -> None:
    stranger = base.read(core.Pod, objects.pod("in-dev", "dev", ip="10.0.0.3", labels=_in_shop()))
    world = World(waypoint(), pod(), pod("other", "10.0.0.2", labels={}), stranger)
    assert world.addresses == {"10.0.0.1"}
    world.put(waypoint(allowed={"from": "All"}))
    assert world.addresses == {"10.0.0.1", "10.0.0.3"}


def _in_shop() -> dict[str, str]:
    return {**USE, names.USE_WAYPOINT_NAMESPACE_LABEL: "shop"}


def test_a_changed_pod_sends_its_own_cluster_only() -> None:
    many = [pod(f"web-{number}", f"10.0.1.{number}") for number in range(1, 100)]
    world = World(waypoint("all"), *many)
    assert world.changes(pod("new", "10.0.2.1")) == {"encap|10.0.2.1"}
    assert world.changes(pod("new", "10.0.2.2")) == {"encap|10.0.2.1", "encap|10.0.2.2"}
    assert world.changes(pod("new", "10.0.2.2", captured=True)) == {"encap|10.0.2.2"}
    assert world.changes(pod("new", "10.0.2.2", captured=True, ready=False)) == set()
    assert world.changes(gone=(many[0],)) == {"encap|10.0.1.1"}
    found = world.worlds.view(WAYPOINT).lookup(names.CLUSTER_TYPE, "encap|10.0.2.2")
    assert found is not None
    assert len(found.body) < 1000


def test_an_address_that_is_used_again_is_the_newest_pods() -> None:
    old = pod("old", created="2026-01-01T00:00:00Z", deleting=True)
    new = pod("new", created="2026-01-01T00:05:00Z", captured=True)
    world = World(waypoint(), old, new)
    assert workload_of(world.cluster("10.0.0.1")) == "new"
    world.remove(old)
    assert workload_of(world.cluster("10.0.0.1")) == "new"
    world.remove(new)
    assert world.cluster("10.0.0.1") is None


def test_of_a_pod_and_an_entry_with_one_address_the_pod_is_called() -> None:
    world = World(waypoint(), entry(), pod())
    assert workload_of(world.cluster("10.0.0.1")) == "web-1"
    world.remove(pod())
    assert workload_of(world.cluster("10.0.0.1")) == "vm"
    world.put(pod())
    assert workload_of(world.cluster("10.0.0.1")) == "web-1"
    world.remove(entry())
    assert workload_of(world.cluster("10.0.0.1")) == "web-1"


def test_endpoints_that_a_service_entry_lists_are_workloads() -> None:
    item = objects.service_entry(
        "out", hosts=["out.test"], resolution="STATIC", endpoints=[{"address": "10.0.0.7"}, {"address": "10.0.0.8"}]
    )
    item["metadata"]["labels"] = dict(USE)
    assert World(waypoint(), base.read(networking.ServiceEntry, item)).addresses == {"10.0.0.7", "10.0.0.8"}


def test_a_policy_for_the_waypoint_is_in_the_chains_of_workloads() -> None:
    target = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}
    policy = base.read(
        security.AuthorizationPolicy, objects.policy("no", action="DENY", rules=[{}], targetRefs=[target])
    )
    world = World(waypoint(), pod())
    assert world.changes(policy) == {"main_internal"}
    assert world.changes(gone=(policy,)) == {"main_internal"}


def _opening(name: str, port: int, *addresses: str) -> Opening:
    chain = listener_components_pb2.FilterChain(name=name)
    return Opening(addresses, port, tcp=chain)


def test_the_first_service_has_an_address_and_port_that_two_claim() -> None:
    first, second = _opening("a", 80, "10.0.0.1", "10.0.0.2"), _opening("b", 80, "10.0.0.2", "10.0.0.3")
    found = dispatch.places([first, second])
    assert {str(network): ports[80].tcp.name for network, ports in found.items() if ports[80].tcp is not None} == {
        "10.0.0.1/32": "a",
        "10.0.0.2/32": "a",
        "10.0.0.3/32": "b",
    }


def test_addresses_that_lead_to_the_same_chains_are_listed_together() -> None:
    one = _opening("a", 80, "10.0.0.1", "fd00::1")
    tree = dispatch.tree(dispatch.places([one, _opening("b", 81, "10.1.0.0/16")]), None)
    assert tree is not None
    found = ip_pb2.IPMatcher.FromString(tree.matcher_tree.custom_match.typed_config.value)
    ranges = [[(item.address_prefix, item.prefix_len.value) for item in each.ranges] for each in found.range_matchers]
    assert ranges == [[("10.0.0.1", 32), ("fd00::1", 128)], [("10.1.0.0", 16)]]
    assert not tree.HasField("on_no_match")


def test_without_services_and_workloads_there_is_nothing_to_choose() -> None:
    assert dispatch.tree({}, None) is None
