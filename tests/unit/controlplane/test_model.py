"""The incremental model: the resources that one change touches, and that any order of events has the same result."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.ambient.model import TYPES, create
from controlplane.graph.derived import Derived
from controlplane.inputs.discovery import Discovery
from controlplane.inputs.kinds import KINDS
from controlplane.inputs.mesh import MeshContext
from controlplane.xds.snapshot import Snapshot
from meshapi import names
from meshapi.mesh_config.model import ServiceEntryVisibility
from meshapi.proto import workload_pb2
from meshapi.resources import base, core, networking, security
from meshapi.selectors import LabelSelector
from meshkit.xds.source import Resource
from tests.support import kubernetes_objects as objects

NAMESPACES = st.sampled_from(["shop", "shop", "dev", "istio-system"])
LABELS = st.sampled_from([{}, {"app": "web"}, {"app": "db"}, {"app": "web", "tier": "x"}])
SELECTORS = st.sampled_from([None, {"app": "web"}, {"app": "db"}])
MODES = st.sampled_from([None, "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])
NUMBERS = st.integers(0, 1)


@st.composite
def pods(draw: st.DrawFn) -> core.Pod:
    number = draw(NUMBERS)
    item = objects.pod(
        f"pod-{number}",
        draw(NAMESPACES),
        ip=f"10.0.0.{draw(st.integers(1, 3))}",
        node=f"node-{draw(NUMBERS)}",
        labels=draw(LABELS),
        captured=draw(st.booleans()),
        phase=draw(st.sampled_from(["Running", "Succeeded"])),
        ports=draw(st.sampled_from([[], [{"name": "web", "containerPort": 81}]])),
    )
    return base.read(core.Pod, item)


@st.composite
def services(draw: st.DrawFn) -> core.Service:
    item = objects.service(
        f"svc-{draw(NUMBERS)}",
        draw(NAMESPACES),
        selector=draw(SELECTORS),
        type=draw(st.sampled_from(["ClusterIP", "ExternalName"])),
        ports=draw(st.sampled_from([[], [{"port": 80, "targetPort": "web", "name": "http"}]])),
    )
    return base.read(core.Service, item)


@st.composite
def slices(draw: st.DrawFn) -> core.EndpointSlice:
    number = draw(NUMBERS)
    item: dict[str, Any] = {
        "metadata": {
            "name": f"slice-{number}",
            "namespace": draw(NAMESPACES),
            "labels": {"kubernetes.io/service-name": f"svc-{draw(NUMBERS)}"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [f"172.18.0.{draw(NUMBERS)}"], "conditions": {"ready": draw(st.booleans())}}],
        "ports": [{"name": "http", "port": 8080}],
    }
    return base.read(core.EndpointSlice, item)


@st.composite
def nodes(draw: st.DrawFn) -> core.Node:
    labels = draw(st.sampled_from([{}, {names.REGION_LABEL: "r"}]))
    return base.read(core.Node, {"metadata": {"name": f"node-{draw(NUMBERS)}", "labels": labels}})


@st.composite
def policies(draw: st.DrawFn) -> security.AuthorizationPolicy:
    selector = draw(SELECTORS)
    item = objects.policy(
        f"policy-{draw(NUMBERS)}",
        draw(NAMESPACES),
        action=draw(st.sampled_from(["ALLOW", "DENY", "AUDIT"])),
        selector={"matchLabels": selector} if selector else None,
    )
    return base.read(security.AuthorizationPolicy, item)


@st.composite
def peers(draw: st.DrawFn) -> security.PeerAuthentication:
    item = objects.peer(
        f"peer-{draw(NUMBERS)}",
        draw(NAMESPACES),
        mode=draw(MODES),
        selector=draw(SELECTORS),
        ports=draw(st.sampled_from([None, {"80": "STRICT"}, {"80": "PERMISSIVE"}])),
        created=f"2026-01-0{draw(st.integers(1, 2))}T00:00:00Z",
    )
    return base.read(security.PeerAuthentication, item)


@st.composite
def entries(draw: st.DrawFn) -> networking.ServiceEntry:
    selector = draw(SELECTORS)
    hosts = st.sampled_from(["a.example.com", "*.example.com", "svc-0.shop.svc.cluster.local"])
    item = objects.service_entry(
        f"entry-{draw(NUMBERS)}",
        draw(NAMESPACES),
        hosts=draw(st.lists(hosts, min_size=1, max_size=2)),
        ports=draw(st.sampled_from([[], [{"number": 443, "name": "tls", "protocol": "TLS"}]])),
        resolution=draw(st.sampled_from(["NONE", "DNS"])),
        selector=selector,
        created=f"2026-01-0{draw(st.integers(1, 2))}T00:00:00Z",
        exportTo=draw(st.sampled_from([[], ["."], ["~"], ["*"]])),
    )
    return base.read(networking.ServiceEntry, item)


@st.composite
def namespaces(draw: st.DrawFn) -> core.Namespace:
    labels = draw(st.sampled_from([{}, {"mesh": "on"}, {"mesh": "on", "team": "a"}]))
    return base.read(core.Namespace, {"metadata": {"name": draw(NAMESPACES), "labels": labels}})


@st.composite
def workload_entries(draw: st.DrawFn) -> networking.WorkloadEntry:
    spec = {"address": draw(st.sampled_from(["", "10.1.0.1", "vm.example.com"])), "labels": draw(LABELS)}
    metadata = {"name": f"vm-{draw(NUMBERS)}", "namespace": draw(NAMESPACES)}
    return base.read(networking.WorkloadEntry, {"metadata": metadata, "spec": spec})


OBJECTS = st.one_of(
    pods(), services(), slices(), nodes(), policies(), peers(), entries(), entries(), workload_entries(), namespaces()
)
SELECTED = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
VISIBILITIES: list[ServiceEntryVisibility | None] = [
    None,
    ServiceEntryVisibility.model_validate({"defaultVisibility": "NAMESPACE"}),
    ServiceEntryVisibility.model_validate(
        {"defaultVisibility": "NONE", "policies": [{"visibility": "PUBLIC", "matchingRules": [SELECTED]}]}
    ),
]
MESH_ON = LabelSelector.model_validate({"matchLabels": {"mesh": "on"}})
MESHES = st.builds(
    MeshContext,
    trust_domain=st.sampled_from(["cluster.local", "example.org"]),
    root_namespace=st.sampled_from(["istio-system", "dev"]),
    network=st.sampled_from(["", "net"]),
    default_export_to=st.sampled_from([(), (".",), ("~",)]),
    service_entry_visibility=st.sampled_from(VISIBILITIES),
)
CONFIGURATIONS = st.tuples(MESHES, st.sampled_from([(), (), (MESH_ON,)]))
"""Facts about the mesh, and selectors of discovered namespaces."""
EVENTS = st.lists(
    st.tuples(
        st.one_of(OBJECTS, OBJECTS, OBJECTS, CONFIGURATIONS), st.sampled_from(["put", "put", "remove"]), st.booleans()
    ),
    min_size=15,
    max_size=60,
)
"""The event for each object, and whether the model is flushed after it. Long, because a missing dependency only shows
when both ends exist and have been published, and one of them then changes."""


class World:
    """A model that gets events as from informers, with the old and the new object."""

    def __init__(self, mesh: MeshContext) -> None:
        self.model = create(mesh)
        inputs = self.model.inputs
        self.discovery = Discovery(inputs, system_namespace="istio-system")
        self.selectors: tuple[LabelSelector, ...] = ()
        self.puts: dict[type, Any] = {
            item.model: self.discovery.feed(inputs.of(item.model)).put if item.discovered else inputs.of(item.model).set
            for item in KINDS
        }
        self.puts[core.Namespace] = self.discovery.put_namespace
        self.held: dict[tuple[type, tuple[str, str]], base.Object] = {}
        self.published: dict[str, dict[str, Resource]] = {}

    def put(self, item: base.Object, *, present: bool = True) -> None:
        key = (type(item), item.key)
        old = self.held.pop(key, None)
        new = item if present else None
        if new is not None:
            self.held[key] = new
        if old is None and new is None:
            return
        self.puts[type(item)](item.key, new)

    def configure(self, mesh: MeshContext, selectors: tuple[LabelSelector, ...] = ()) -> None:
        self.selectors = selectors
        self.discovery.put_mesh(mesh, selectors)

    def flush(self, limit: int | None = None) -> None:
        for type_url, changed in self.model.flush(limit).items():
            published = self.published.setdefault(type_url, {})
            for name, resource in changed.items():
                if resource is None:
                    del published[name]
                else:
                    assert published.get(name) != resource, "published without a change"
                    published[name] = resource


@settings(max_examples=400, deadline=None)
@given(EVENTS)
def test_any_order_of_events_ends_like_a_computation_from_scratch(events: list[tuple[Any, str, bool]]) -> None:
    world = World(MeshContext())
    for item, action, flushes in events:
        if isinstance(item, tuple):
            world.configure(*item)
        else:
            world.put(item, present=action == "put")
        if flushes:
            world.flush(1)
            assert_no_unknown_policies(world)
    while not world.model.is_settled:
        world.flush(2)
        assert_no_unknown_policies(world)
    fresh = World(world.model.mesh)
    fresh.configure(world.model.mesh, world.selectors)
    for item in reversed(list(world.held.values())):
        fresh.put(item)
    fresh.flush()
    for type_url in (names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE):
        assert world.published.get(type_url, {}) == fresh.published.get(type_url, {}) == world.model.all(type_url)


def assert_no_unknown_policies(world: World) -> None:
    """Between flushes too, a workload names no policy that proxies do not know: it would deny all traffic."""
    known = world.published.get(names.AUTHORIZATION_TYPE, {})
    for resource in world.published.get(names.ADDRESS_TYPE, {}).values():
        address = workload_pb2.Address.FromString(resource.body)
        assert set(address.workload.authorization_policies) <= known.keys()


def test_a_change_of_the_mesh_is_computed_in_slices_and_single_events_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    count, limit = 10_000, 200
    world = World(MeshContext())
    pods = [pod(f"p{n}", ip=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(count)]
    for item in pods:
        world.put(item)
    world.flush()
    computed: list[tuple[str, Any]] = []
    compute = Derived.compute

    def recorded(derived: Derived[Any, Any], key: Any) -> None:
        computed.append((derived.name, key))
        compute(derived, key)

    monkeypatch.setattr(Derived, "compute", recorded)
    world.put(base.read(security.PeerAuthentication, objects.peer("mesh", "istio-system", mode="STRICT")))
    changes = world.model.flush(limit)
    assert list(changes) == [names.AUTHORIZATION_TYPE, names.ADDRESS_TYPE], "policies before workloads"
    assert len(computed) == limit
    done = {key for name, key in computed if name == "pods"}
    late = next(item for item in pods if item.key not in done)  # which ones come first is left to chance
    world.put(pod(late.metadata.name, ip=late.status.pod_ips[0].ip, ready=False))
    assert f"Kubernetes//Pod/shop/{late.metadata.name}" in world.model.flush(1)[names.ADDRESS_TYPE]
    slices = 0
    while not world.model.is_settled:
        before = len(computed)
        world.model.flush(limit)
        assert len(computed) - before <= limit
        slices += 1
    assert slices == count // limit
    assert len(set(computed)) == len(computed), "each once"
    others = {name for name, _ in computed} - {"pods"}
    assert others == {"modes", "peers", "static"}
    assert len(computed) == count + len(others)


def test_a_policy_is_withdrawn_after_the_last_workload_that_names_it() -> None:
    world = World(MeshContext())
    strict = base.read(security.PeerAuthentication, objects.peer("mesh", "istio-system", mode="STRICT"))
    world.put(strict)
    for number in range(300):
        world.put(pod(f"p{number}", ip=f"10.0.{number >> 8}.{number & 255}"))
    world.flush()
    world.put(strict, present=False)
    while not world.model.is_settled:
        world.flush(100)
        assert_no_unknown_policies(world)
    assert world.published[names.AUTHORIZATION_TYPE] == {}


def namespace(name: str, **labels: str) -> core.Namespace:
    return base.read(core.Namespace, {"metadata": {"name": name, "labels": labels}})


def test_a_namespace_that_no_selector_matches_is_not_discovered_until_its_labels_say_so() -> None:
    world = World(MeshContext())
    for item in (namespace("shop"), namespace("dev", mesh="on"), pod("a"), pod("b", "dev"), pod("c", "istio-system")):
        world.put(item)
    policy = base.read(security.AuthorizationPolicy, objects.policy("p"))
    world.put(policy)
    world.put(base.read(core.Service, objects.service("web")))
    world.flush()
    everything = {type_url: set(held) for type_url, held in world.published.items()}
    world.configure(MeshContext(), (MESH_ON,))
    world.flush()
    assert set(world.published[names.ADDRESS_TYPE]) == {"Kubernetes//Pod/dev/b", "Kubernetes//Pod/istio-system/c"}
    assert world.published[names.AUTHORIZATION_TYPE] == {}
    world.put(pod("new"))
    world.put(policy, present=False)
    assert not world.model.flush(), "what is not discovered changes nothing"
    world.put(policy)
    world.put(pod("new"), present=False)
    world.put(namespace("shop", mesh="on"))
    world.flush()
    assert {type_url: set(held) for type_url, held in world.published.items()} == everything
    world.put(namespace("shop"))
    world.flush()
    assert "Kubernetes//Pod/shop/a" not in world.published[names.ADDRESS_TYPE]
    world.configure(MeshContext())
    world.flush()
    assert {type_url: set(held) for type_url, held in world.published.items()} == everything


def test_only_a_change_of_discovery_is_announced() -> None:
    discovery = Discovery(create(MeshContext()).inputs, system_namespace="istio-system")
    key = ("", "shop")
    assert not discovery.put_namespace(key, namespace("shop")), "every namespace is discovered without selectors"
    discovery.put_mesh(MeshContext(), (MESH_ON,))
    assert discovery.put_namespace(key, namespace("shop", mesh="on"))
    assert not discovery.put_namespace(key, namespace("shop", mesh="on", team="a"))
    assert discovery.put_namespace(key, None)


def visibilities(world: World) -> dict[str, str]:
    world.flush()
    found = (
        workload_pb2.Address.FromString(item.body) for item in world.published.get(names.ADDRESS_TYPE, {}).values()
    )
    return {
        address.service.hostname: workload_pb2.Service.Visibility.Name(address.service.visibility)
        for address in found
        if address.HasField("service")
    }


def test_the_visibility_of_a_service_entry_is_the_narrower_of_its_own_and_the_meshs() -> None:
    world = World(MeshContext())
    world.put(namespace("shop", team="a"))
    for name, export_to in {"unset": [], "own": ["."], "named": ["shop"], "all": ["*"], "none": ["~"]}.items():
        item = objects.service_entry(name, hosts=[f"{name}.test"], resolution="DNS", exportTo=export_to)
        world.put(base.read(networking.ServiceEntry, item))
    public = {"unset.test": "PUBLIC", "own.test": "NAMESPACE", "named.test": "NAMESPACE", "all.test": "PUBLIC"}
    assert visibilities(world) == public
    world.configure(MeshContext(default_export_to=(".",)))
    assert visibilities(world) == public | {"unset.test": "NAMESPACE"}
    world.configure(MeshContext(default_export_to=("~",)))
    assert visibilities(world) == {host: seen for host, seen in public.items() if host != "unset.test"}
    world.configure(MeshContext(service_entry_visibility=VISIBILITIES[1]))
    assert set(visibilities(world).values()) == {"NAMESPACE"}
    world.configure(MeshContext(service_entry_visibility=VISIBILITIES[2]))
    assert visibilities(world) == public
    world.put(namespace("shop"))
    assert visibilities(world) == {}


def test_a_service_entry_of_visibility_none_takes_no_host_from_another() -> None:
    world = World(MeshContext())
    for name, export_to, created in (("old", ["~"], "2026-01-01"), ("new", [], "2026-01-02")):
        item = objects.service_entry(name, hosts=["a.test"], resolution="DNS", exportTo=export_to, created=created)
        world.put(base.read(networking.ServiceEntry, item))
    assert visibilities(world) == {"a.test": "PUBLIC"}


def pod(name: str, namespace: str = "shop", **options: Any) -> core.Pod:
    return base.read(core.Pod, objects.pod(name, namespace, **options))


def test_one_pod_touches_one_workload() -> None:
    world = World(MeshContext())
    for number in range(100):
        world.put(pod(f"p{number}", ip=f"10.0.0.{number + 1}"))
    world.flush()
    world.put(pod("p7", ip="10.0.0.8", ready=False))
    assert list(world.model.flush()[names.ADDRESS_TYPE]) == ["Kubernetes//Pod/shop/p7"]
    assert not world.model.flush()


def test_snapshot_finds_by_name_address_and_service() -> None:
    world = World(MeshContext())
    world.put(pod("a", ip="10.0.0.1", labels={"app": "web"}))
    world.put(base.read(core.Service, objects.service("web")))
    snapshot = Snapshot(TYPES)
    snapshot.apply(world.model.flush())
    uid, service = "Kubernetes//Pod/shop/a", "shop/web.shop.svc.cluster.local"

    def found(name: str) -> list[str]:
        return sorted(item.name for item in snapshot.resolve(names.ADDRESS_TYPE, name))

    assert found("/10.0.0.1") == found(uid) == [uid]
    assert found("/10.96.0.10") == found(service) == sorted([uid, service])
    assert found("/10.9.9.9") == []
    world.put(pod("a", ip="10.0.0.1", labels={"app": "web"}), present=False)
    snapshot.apply(world.model.flush())
    assert found("/10.0.0.1") == []
    assert found(service) == [service]


def test_root_namespace_policies_reach_pods_of_all_namespaces() -> None:
    world = World(MeshContext())
    world.put(pod("a", labels={"app": "web"}))
    selector = {"matchLabels": {"app": "web"}}
    root = base.read(security.AuthorizationPolicy, objects.policy("z", "istio-system", selector=selector))
    world.put(root)
    world.put(base.read(security.AuthorizationPolicy, objects.policy("b", selector=selector)))
    world.put(base.read(security.AuthorizationPolicy, objects.policy("other", "dev", selector=selector)))
    assert policies_of(world, "Kubernetes//Pod/shop/a") == ["istio-system/z", "shop/b"]
    world.configure(replace(world.model.mesh, root_namespace="dev"))
    assert policies_of(world, "Kubernetes//Pod/shop/a") == ["dev/other", "shop/b"]


def policies_of(world: World, uid: str) -> list[str]:
    world.flush()
    address = workload_pb2.Address.FromString(world.published[names.ADDRESS_TYPE][uid].body)
    return list(address.workload.authorization_policies)


def test_mesh_wide_mode_reaches_pods_and_port_exceptions_of_other_namespaces() -> None:
    world = World(MeshContext())
    world.put(pod("a", labels={"app": "web"}))
    world.put(pod("b", "dev"))
    own = objects.peer("w", mode="UNSET", selector={"app": "web"}, ports={"80": "PERMISSIVE"})
    world.put(base.read(security.PeerAuthentication, own))
    world.flush()
    world.put(base.read(security.PeerAuthentication, objects.peer("mesh", "istio-system", mode="STRICT")))
    changes = world.model.flush()
    assert set(changes[names.ADDRESS_TYPE]) == {"Kubernetes//Pod/shop/a", "Kubernetes//Pod/dev/b"}
    assert "shop/converted_peer_authentication_w" in changes[names.AUTHORIZATION_TYPE]


def test_pod_made_again_on_another_node_is_not_on_the_first() -> None:
    world = World(MeshContext())
    world.put(pod("a", node="node-1"))
    world.put(pod("a", node="node-2"))
    assert not world.model.pods_on("node-1")
    assert [item.metadata.name for item in world.model.pods_on("node-2")] == ["a"]
    world.put(pod("a", node="node-2"), present=False)
    assert not world.model.pods_on("node-2")
