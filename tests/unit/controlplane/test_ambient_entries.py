"""ServiceEntry and WorkloadEntry, object in, resources out."""

from ipaddress import ip_address
from typing import Any

import pytest

from controlplane.ambient import service_entries
from controlplane.ambient.model import create
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.errors import InvalidResource
from meshapi.proto import workload_pb2
from meshapi.resources import base, core, networking
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put

TLS = {"number": 443, "name": "tls", "protocol": "TLS"}
LB = workload_pb2.LoadBalancing


def entry(name: str = "ext", namespace: str = "shop", **options: Any) -> networking.ServiceEntry:
    return base.read(networking.ServiceEntry, objects.service_entry(name, namespace, **options))


def resources(*items: base.Object) -> dict[str, workload_pb2.Address]:
    model = create(MeshContext())
    put(model, *items)
    made = model.flush()[names.ADDRESS_TYPE]
    return {name: workload_pb2.Address.FromString(item.body) for name, item in made.items() if item is not None}


def test_a_host_by_name_only_is_passed_through() -> None:
    made = resources(entry(hosts=["*.example.com"], ports=[TLS], addresses=["192.0.2.0/24", "192.0.2.9"]))
    service = made["shop/*.example.com"].service
    assert (service.load_balancing.mode, service.load_balancing.health_policy) == (LB.PASSTHROUGH, LB.ALLOW_ALL)
    assert [(list(item.address), item.length) for item in service.addresses] == [
        ([192, 0, 2, 0], 24),
        ([192, 0, 2, 9], 0),
    ]
    assert not service.addresses[1].HasField("length")
    assert list(made) == ["shop/*.example.com"]


def test_static_endpoints_are_workloads_of_every_host() -> None:
    endpoint = {"address": "10.1.0.1", "ports": {"tls": 8443}, "locality": "r1/z1", "weight": 3, "serviceAccount": "vm"}
    made = resources(entry(hosts=["a.io", "b.io"], ports=[TLS], resolution="STATIC", endpoints=[endpoint]))
    workload = made["Kubernetes/networking.istio.io/ServiceEntry/shop/ext/10.1.0.1"].workload
    assert set(workload.services) == {"shop/a.io", "shop/b.io"}
    port = workload.services["shop/a.io"].ports[0]
    assert (port.service_port, port.target_port, port.app_protocol) == (443, 8443, workload_pb2.TLS)
    assert (workload.locality.region, workload.locality.zone, workload.capacity.value) == ("r1", "z1", 3)
    assert workload.service_account == "vm"


def test_a_dns_host_without_endpoints_is_its_own() -> None:
    made = resources(entry(hosts=["a.io", "*.b.io"], ports=[{**TLS, "targetPort": 8443}], resolution="DNS"))
    workload = made["Kubernetes/networking.istio.io/ServiceEntry/shop/ext/a.io"].workload
    assert (workload.hostname, list(workload.addresses), list(workload.services)) == ("a.io", [], ["shop/a.io"])
    assert workload.services["shop/a.io"].ports[0].target_port == 8443
    assert set(made) == {"shop/a.io", "shop/*.b.io", "Kubernetes/networking.istio.io/ServiceEntry/shop/ext/a.io"}


def test_selected_pods_and_workload_entries_are_endpoints() -> None:
    vm = {"metadata": {"name": "vm", "namespace": "shop"}, "spec": {"address": "10.1.0.9", "labels": {"app": "db"}}}
    made = resources(
        entry(hosts=["db.io"], ports=[TLS], resolution="STATIC", selector={"app": "db"}, location="MESH_INTERNAL"),
        base.read(core.Pod, objects.pod("db-1", labels={"app": "db"})),
        base.read(core.Pod, objects.pod("web", labels={"app": "web"})),
        base.read(networking.WorkloadEntry, vm),
        base.read(core.Service, objects.service("db", ports=[{"port": 80, "targetPort": 81}])),
    )
    assert "shop/db.io" in made["Kubernetes//Pod/shop/db-1"].workload.services
    assert not made["Kubernetes//Pod/shop/web"].workload.services
    workload = made["Kubernetes/networking.istio.io/WorkloadEntry/shop/vm"].workload
    assert set(workload.services) == {"shop/db.io", "shop/db.shop.svc.cluster.local"}
    assert workload.services["shop/db.shop.svc.cluster.local"].ports[0].target_port == 81


def test_allocated_addresses_are_the_hosts_own_and_only_where_none_are_given() -> None:
    item = objects.service_entry("ext", hosts=["a.io", "b.io", "*.c.io"], resolution="DNS")
    item["status"] = {"addresses": [{"value": "240.240.0.1", "host": "a.io"}, {"value": "2001:2::1", "host": "a.io"}]}
    allocated = base.read(networking.ServiceEntry, item)
    a, b = service_entries.translate_hosts(allocated, ["a.io", "b.io"], MeshContext(), canonical=frozenset())
    assert [ip_address(item.address) for item in a.addresses] == [ip_address("240.240.0.1"), ip_address("2001:2::1")]
    assert not b.addresses
    assert service_entries.wants_addresses(allocated) == ["a.io", "b.io"]
    assert service_entries.wants_addresses(entry(hosts=["a.io"], resolution="NONE")) == []
    by_name = entry(hosts=["*.a.io"], resolution="DYNAMIC_DNS")
    assert service_entries.wants_addresses(by_name) == ["*.a.io"], "one address for all names"
    assert service_entries.wants_addresses(entry(hosts=["a.io"], resolution="DNS", addresses=["192.0.2.1"])) == []


def test_of_several_claimants_the_oldest_has_the_host_and_a_kubernetes_service_goes_first() -> None:
    older = entry("z", hosts=["a.io"], ports=[TLS], created="2026-01-01T00:00:00Z")
    newer = entry("a", hosts=["a.io"], created="2026-01-02T00:00:00Z")
    elsewhere = entry("e", "dev", hosts=["a.io"], created="2026-01-03T00:00:00Z")
    hijack = entry("h", hosts=["web.shop.svc.cluster.local"])
    made = resources(older, newer, elsewhere, hijack, base.read(core.Service, objects.service("web")))
    assert made["shop/a.io"].service.name == "z"
    assert made["shop/a.io"].service.canonical
    assert not made["dev/a.io"].service.canonical
    assert made["shop/web.shop.svc.cluster.local"].service.name == "web"


def test_export_to_becomes_the_visibility_of_a_host() -> None:
    made = resources(entry(hosts=["a.io"], exportTo=["."]), entry("b", hosts=["b.io"], exportTo=["*"]))
    assert made["shop/a.io"].service.visibility == workload_pb2.Service.NAMESPACE
    assert made["shop/b.io"].service.visibility == workload_pb2.Service.PUBLIC


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"hosts": ["no host"]}, "spec.hosts[0]", "is not a host name"),
        ({"hosts": ["a.*.io"]}, "spec.hosts[0]", "is not a host name"),
        ({"hosts": []}, "spec", "hosts is empty"),
        ({"hosts": ["a.io"], "addresses": ["10.0.0.0/33"]}, "spec.addresses[0]", "is not an IP address or CIDR"),
        ({"hosts": ["a.io"], "ports": [{"number": 70000}]}, "spec.ports[0].number", "is not a port"),
        ({"hosts": ["a.io"], "resolution": "SOMEHOW"}, "spec.resolution", "should be"),
        (
            {"hosts": ["a.io"], "resolution": "STATIC", "endpoints": [{"address": "a.io"}]},
            "spec",
            "is no IP address; set resolution to DNS",
        ),
        ({"hosts": ["a.io"], "endpoints": [{"address": "10.0.0.1"}]}, "spec", "endpoints need a resolution"),
    ],
)
def test_bad_entries_are_refused_with_the_field(spec: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        entry(**spec)
    assert f"ServiceEntry shop/ext: {field}" in str(refused.value)
    assert reason in str(refused.value)
