"""BackendTLSPolicies: conditions by ancestor, certificates in ConfigMaps, what stands in for unreadable policies."""

import asyncio
from typing import Any

import pytest

from controlplane.ambient.model import create
from controlplane.config_map_certificates import ConfigMapCertificates, certificates_of
from controlplane.envoy import layer7
from controlplane.inputs import fail_closed
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.rejections import name_in
from controlplane.inputs.sources import Rejection
from controlplane.routing import backend_tls
from controlplane.status.policy_ancestors import PolicyAncestors
from controlplane.xds import worlds
from meshapi import names
from meshapi.errors import InvalidResource
from meshapi.resources import base
from meshapi.resources.backend_policies import BackendTLSPolicy
from meshapi.resources.core import Namespace, Service
from meshapi.resources.gateway import Gateway
from meshkit import kube
from tests.support import kubernetes_objects as objects
from tests.support.authority import TestAuthority
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until

Json = dict[str, Any]
CA = TestAuthority().roots.decode()
WEB = {"group": "", "kind": "Service", "name": "web"}
CONFIG_MAP = {"group": "", "kind": "ConfigMap", "name": "ca"}
WAYPOINT = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": "waypoint"}


def policy(*targets: Json, options: Json | None = None, **validation: Any) -> Json:
    given = {"hostname": "web.example", "caCertificateRefs": [CONFIG_MAP], **validation}
    spec = {"targetRefs": list(targets or (WEB,)), "validation": given, "options": options or {}}
    return {"metadata": {"name": "p", "namespace": "shop", "generation": 3}, "spec": spec}


class Plane:
    """The entries of policies beside a service and a waypoint."""

    def __init__(self, *, is_labelled: bool = True) -> None:
        self.model = create(MeshContext())
        made = layer7.create(self.model)
        self.worlds = worlds.create(made)
        self.list = PolicyAncestors(made).lists[0]
        labels = {"istio.io/use-waypoint": "waypoint"} if is_labelled else {}
        namespace = base.read(Namespace, {"metadata": {"name": "shop", "labels": labels}})
        self.model.inputs.namespaces.set(namespace.key, namespace)
        self.put(Gateway, objects.gateway("waypoint", addresses=objects.hostname_of("waypoint")))
        self.put(Service, objects.service("web", ports=[{"name": "http", "port": 80}]))

    def put(self, model: type[base.Object], item: Json) -> None:
        found = base.read(model, item)
        self.model.inputs.of(type(found)).set(found.key, found)

    def entries(self) -> list[Json]:
        self.model.flush()
        return list(self.list.entries.find(("shop", "p")) or ())


def conditions(entry: Json) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in entry["conditions"]}


def test_a_waypoint_is_the_ancestor_of_all_targets_that_use_it() -> None:
    plane = Plane()
    plane.model.inputs.certificates.set(("shop", "ca"), certificates_of({"data": {"ca.crt": CA}}))
    plane.put(Service, objects.service("other", ports=[{"name": "http", "port": 80}]))
    plane.put(BackendTLSPolicy, policy(WEB, {**WEB, "name": "other"}, options={"example.com/x": "y"}))
    [entry] = plane.entries()
    assert entry["ancestorRef"] == WAYPOINT
    assert entry["controllerName"] == names.WAYPOINT_CONTROLLER
    assert conditions(entry) == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}
    assert "spec.options are ignored: example.com/x" in entry["conditions"][0]["message"]
    assert entry["conditions"][0]["observedGeneration"] == 3


def test_a_target_without_a_waypoint_is_its_own_ancestor_and_says_so() -> None:
    plane = Plane(is_labelled=False)
    plane.put(BackendTLSPolicy, policy(wellKnownCACertificates="System", caCertificateRefs=[]))
    [entry] = plane.entries()
    assert entry["ancestorRef"] == {**WEB, "namespace": "shop"}
    assert conditions(entry)["Accepted"] == ("True", "Accepted")
    assert "uses no waypoint" in entry["conditions"][0]["message"]


def test_certificates_that_are_missing_are_named() -> None:
    plane = Plane()
    plane.put(BackendTLSPolicy, policy())
    [entry] = plane.entries()
    assert conditions(entry) == {
        "Accepted": ("False", "NoValidCACertificate"),
        "ResolvedRefs": ("False", "InvalidCACertificateRef"),
    }
    assert "ConfigMap shop/ca has not been read yet" in entry["conditions"][1]["message"]


def test_what_a_proxy_refuses_is_said() -> None:
    plane = Plane()
    plane.put(BackendTLSPolicy, policy())
    plane.model.flush()
    plane.worlds.publish(is_settled=True)
    cluster = "inbound-vip|80|http|web.shop.svc.cluster.local"
    assert cluster in {one.name for one in plane.worlds.view(("shop", "waypoint")).all(names.CLUSTER_TYPE)}
    rejections, refused = plane.model.inputs.rejections, Rejection("waypoint-1", "no", others=False)
    rejections.set((names.CLUSTER_TYPE, name_in(("shop", "elsewhere"), cluster)), refused)
    [entry] = plane.entries()
    assert "rejected by" not in entry["conditions"][0]["message"], "another proxy's"
    rejections.set((names.CLUSTER_TYPE, name_in(("shop", "waypoint"), cluster)), refused)
    [entry] = plane.entries()
    assert conditions(entry)["Accepted"] == ("False", "Invalid")
    assert "rejected by waypoint-1" in entry["conditions"][0]["message"]


@pytest.mark.parametrize(
    ("config_map", "fault"),
    [
        (None, "does not exist"),
        ({}, "has no key ca.crt"),
        ({"data": {"other": "x"}}, "has no key ca.crt"),
        ({"data": {"ca.crt": ""}}, "has no key ca.crt"),
        ({"data": {"ca.crt": "x"}}, "has no certificates in ca.crt"),
        ({"data": {"ca.crt": "x" * 300_000}}, "has more than 256 kB"),
        ({"data": {"ca.crt": CA.replace("MII", "XXX", 1)}}, "has no certificates in ca.crt"),
    ],
)
def test_a_config_map_without_certificates_says_why(config_map: Json | None, fault: str) -> None:
    found = certificates_of(config_map)
    assert not found.pem
    assert fault in found.fault


def test_words_between_certificates_are_left_out() -> None:
    text = f"my authority\n{CA}\nmore words\n{CA}"
    assert certificates_of({"data": {"ca.crt": text}}).pem == CA * 2


async def test_a_config_map_is_read_when_it_is_wanted_again_when_it_changes_and_forgotten() -> None:
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        model = create(MeshContext())
        held, touched = model.inputs.certificates, list[str]()
        following = asyncio.create_task(
            ConfigMapCertificates(model.inputs, model.gateways, touched.append, client, refresh_s=0.05).run()
        )
        item = base.read(BackendTLSPolicy, policy())
        model.inputs.of(BackendTLSPolicy).set(item.key, item)
        await until(lambda: held.find(("shop", "ca")))
        assert held.find(("shop", "ca")) == certificates_of(None)
        api.put("configmaps", {"metadata": {"name": "ca", "namespace": "shop"}, "data": {"ca.crt": CA}}, "shop")
        await until(lambda: (found := held.find(("shop", "ca"))) and found.pem == CA)
        assert set(touched) == {"certificates"}
        api.remove("configmaps", "ca", "shop")
        await until(lambda: held.find(("shop", "ca")) == certificates_of(None))
        model.inputs.of(BackendTLSPolicy).set(item.key, None)
        await until(lambda: held.find(("shop", "ca")) is None)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("spec", [{}, {"targetRefs": []}, {"targetRefs": [WEB], "validation": {"hostname": 3}}, "x"])
def test_a_policy_of_the_wrong_types_trusts_nobody(spec: Any) -> None:
    body = {"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}
    with pytest.raises(InvalidResource, match="BackendTLSPolicy shop/p"):
        base.read(BackendTLSPolicy, body)
    closed = backend_tls.read(fail_closed.backend_tls(body), lambda _: None)
    assert not closed.tls.roots
    assert not closed.tls.trusts_system
    assert {one.name for one in closed.targets} <= {"web"}


def test_targets_that_can_be_read_stay_in_a_substitute() -> None:
    closed = fail_closed.backend_tls(policy(WEB, {"kind": 3}, hostname=4))
    assert [one.name for one in closed.spec.target_refs] == ["web"]
