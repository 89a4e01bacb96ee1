"""Pods, services and endpoint slices as proxies get them."""

import pytest

from controlplane.ambient import ports, services, workloads
from controlplane.ambient.model import create
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.proto import workload_pb2 as pb
from meshapi.resources import base, core
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put

MESH = MeshContext()


def read_pod(*args: object, **options: object) -> core.Pod:
    return base.read(core.Pod, objects.pod(*args, **options))  # type: ignore[arg-type]


def read_service(*args: object, **options: object) -> core.Service:
    return base.read(core.Service, objects.service(*args, **options))  # type: ignore[arg-type]


def translate(pod: core.Pod, *, mesh: MeshContext = MESH, services: list[core.Service] | None = None) -> pb.Workload:
    result = workloads.translate_pod(pod, mesh, services=services or [], node=None, policies=[])
    assert result is not None
    return result


def test_pod_as_a_whole() -> None:
    node = base.read(
        core.Node,
        {"metadata": {"name": "node-1", "labels": {names.REGION_LABEL: "r", names.ZONE_LABEL: "z"}}},
    )
    owner = {"kind": "ReplicaSet", "name": "web-7d4b9", "controller": True}
    pod = read_pod(
        "web-7d4b9-x2x",
        ip="10.1.2.3",
        account="web",
        labels={"app": "web", "version": "v2", "pod-template-hash": "7d4b9"},
        captured=True,
        owner=owner,
    )
    service = read_service("web", ports=[{"port": 80, "targetPort": 8080, "name": "http"}])
    result = workloads.translate_pod(pod, MESH, services=[service], node=node, policies=["shop/p"])
    assert result == pb.Workload(
        uid="Kubernetes//Pod/shop/web-7d4b9-x2x",
        name="web-7d4b9-x2x",
        namespace="shop",
        addresses=[bytes([10, 1, 2, 3])],
        tunnel_protocol=pb.HBONE,
        service_account="web",
        node="node-1",
        canonical_name="web",
        canonical_revision="v2",
        workload_type=pb.POD,
        workload_name="web",
        services={
            "shop/web.shop.svc.cluster.local": pb.PortList(
                ports=[pb.Port(service_port=80, target_port=8080, app_protocol=pb.HTTP11)]
            )
        },
        authorization_policies=["shop/p"],
        status=pb.HEALTHY,
        cluster_id="Kubernetes",
        locality=pb.Locality(region="r", zone="z"),
    )


@pytest.mark.parametrize(
    ("options", "protocol", "native"),
    [
        ({}, pb.NONE, False),
        ({"labels": {names.DATAPLANE_MODE_LABEL: "ambient"}}, pb.NONE, False),
        ({"captured": True}, pb.HBONE, False),
        ({"labels": {names.TUNNEL_LABEL: "http"}}, pb.HBONE, True),
    ],
)
def test_only_captured_pods_get_the_tunnel(options: dict[str, object], protocol: int, native: bool) -> None:
    result = translate(read_pod("a", **options))
    assert (result.tunnel_protocol, result.native_tunnel) == (protocol, native)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, pb.HEALTHY),
        ({"ready": False}, pb.UNHEALTHY),
        ({"deleting": True}, pb.UNHEALTHY),
        ({"phase": "Pending", "ready": False}, pb.UNHEALTHY),
    ],
)
def test_health(options: dict[str, object], status: int) -> None:
    assert translate(read_pod("a", **options)).status == status


@pytest.mark.parametrize("options", [{"phase": "Succeeded"}, {"phase": "Failed"}, {"ip": ""}])
def test_ended_and_addressless_pods_are_not_published(options: dict[str, object]) -> None:
    pod = read_pod("a", **options)
    assert workloads.translate_pod(pod, MESH, services=[], node=None, policies=[]) is None


def test_trust_domain_is_empty_only_for_the_default() -> None:
    assert translate(read_pod("a")).trust_domain == ""
    assert translate(read_pod("a"), mesh=MeshContext(trust_domain="example.org")).trust_domain == "example.org"


@pytest.mark.parametrize(
    ("owner", "labels", "name"),
    [
        (None, {}, "a"),
        ({"kind": "ReplicaSet", "name": "web-abc", "controller": True}, {"pod-template-hash": "abc"}, "web"),
        ({"kind": "ReplicaSet", "name": "bare", "controller": True}, {}, "bare"),
        ({"kind": "Job", "name": "nightly-28123456", "controller": True}, {}, "nightly"),
        ({"kind": "Job", "name": "once", "controller": True}, {}, "once"),
        ({"kind": "StatefulSet", "name": "db", "controller": True}, {}, "db"),
    ],
)
def test_workload_name_is_the_owners(owner: dict[str, object] | None, labels: dict[str, str], name: str) -> None:
    pod = read_pod("a", owner=owner, labels=labels)
    assert workloads.workload_name(pod) == name


def test_named_port_is_resolved_by_each_pod_and_left_out_where_it_is_missing() -> None:
    service = read_service("web", ports=[{"port": 80, "targetPort": "web", "name": "grpc-x"}])
    named = read_pod("a", ports=[{"name": "web", "containerPort": 9090}])
    assert ports.pod_ports(service, named).ports[0].target_port == 9090
    assert not ports.pod_ports(service, read_pod("b")).ports
    assert ports.service_ports(service) == [pb.Port(service_port=80, target_port=0, app_protocol=pb.GRPC)]
    assert "shop/web.shop.svc.cluster.local" in translate(read_pod("b"), services=[service]).services


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 53, "protocol": "UDP"}, None),
        ({"port": 80}, (80, pb.UNKNOWN)),
        ({"port": 80, "targetPort": "8080"}, (8080, pb.UNKNOWN)),
        ({"port": 80, "name": "http2-x"}, (80, pb.HTTP2)),
        ({"port": 80, "name": "x", "appProtocol": "kubernetes.io/h2c"}, (80, pb.HTTP2)),
        ({"port": 443, "name": "https"}, (443, pb.TLS)),
        ({"port": 5432, "name": "tcp-db"}, (5432, pb.TCP)),
    ],
)
def test_port_protocols(port: dict[str, object], expected: tuple[int, int] | None) -> None:
    protocols = [(item.target_port, item.app_protocol) for item in ports.service_ports(read_service("s", ports=[port]))]
    assert protocols == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("spec", "scopes", "mode", "health"),
    [
        ({"internalTrafficPolicy": "Local"}, "NODE", "STRICT", "ONLY_HEALTHY"),
        ({"trafficDistribution": "PreferClose"}, "NETWORK REGION ZONE", "FAILOVER", "ONLY_HEALTHY"),
        ({"trafficDistribution": "PreferSameZone"}, "NETWORK REGION ZONE", "FAILOVER", "ONLY_HEALTHY"),
        ({"trafficDistribution": "PreferSameNode"}, "NETWORK REGION ZONE SUBZONE NODE", "FAILOVER", "ONLY_HEALTHY"),
        ({"publishNotReadyAddresses": True}, "", "UNSPECIFIED_MODE", "ALLOW_ALL"),
    ],
)
def test_load_balancing(spec: dict[str, object], scopes: str, mode: str, health: str) -> None:
    result = services.translate(read_service("web", **spec), MESH)
    assert result is not None
    balancing = result.load_balancing
    assert [pb.LoadBalancing.Scope.Name(scope) for scope in balancing.routing_preference] == scopes.split()
    assert pb.LoadBalancing.Mode.Name(balancing.mode) == mode
    assert pb.LoadBalancing.HealthPolicy.Name(balancing.health_policy) == health


def test_services() -> None:
    plain = services.translate(read_service("web", ipFamilies=["IPv4"]), MESH)
    assert plain is not None
    assert plain.canonical
    assert plain.hostname == "web.shop.svc.cluster.local"
    assert [item.address for item in plain.addresses] == [bytes([10, 96, 0, 10])]
    assert plain.ip_families == pb.IPV4_ONLY
    assert not plain.HasField("load_balancing")
    headless = services.translate(read_service("web", clusterIP="None", clusterIPs=["None"]), MESH)
    assert headless is not None
    assert not headless.addresses
    assert services.translate(read_service("web", type="ExternalName"), MESH) is None


def test_slice_endpoints_that_are_no_pods_become_workloads_without_addresses() -> None:
    item = base.read(
        core.EndpointSlice,
        {
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["172.18.0.2"], "conditions": {"ready": None}},
                {"addresses": ["172.18.0.3"], "conditions": {"ready": False}},
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "x"}},
            ],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        },
    )
    service = read_service("kubernetes", "default", selector=None, ports=[{"port": 443, "name": "https"}])
    first, second = workloads.translate_slice(item, service, MESH)
    assert first.uid == "Kubernetes/discovery.k8s.io/EndpointSlice/default/kubernetes/172.18.0.2"
    assert first.network_mode == pb.HOST_NETWORK
    assert first.services["default/kubernetes.default.svc.cluster.local"].ports[0].target_port == 6443
    assert (first.status, second.status) == (pb.HEALTHY, pb.UNHEALTHY)


@pytest.mark.parametrize(
    ("namespace", "pod", "held"),
    [
        ({}, {}, False),
        ({"culvert.io/egress": "registry-only"}, {}, True),
        ({"culvert.io/egress": "registry-only"}, {"culvert.io/egress": "allow-any"}, True),
        ({"culvert.io/egress": "allow-any"}, {"culvert.io/egress": "registry-only"}, True),
        ({"culvert.io/egress": "registry_only"}, {}, True),
    ],
)
def test_a_workload_is_marked_that_may_reach_only_what_the_registry_knows(
    namespace: dict[str, str], pod: dict[str, str], held: bool
) -> None:
    model = create(MESH)
    put(model, base.read(core.Namespace, objects.namespace("shop", namespace)), read_pod("web", labels=pod))

    def extensions() -> list[str]:
        model.flush()
        resource = model.all(names.ADDRESS_TYPE)["Kubernetes//Pod/shop/web"]
        return [one.name for one in pb.Address.FromString(resource.body).workload.extensions]

    assert extensions() == ["culvert.io/egress-registry-only"] * held
    put(model, base.read(core.Namespace, objects.namespace("shop")))
    assert extensions() == ["culvert.io/egress-registry-only"] * ("registry-only" in pod.values())
