"""Ingresses of Kubernetes: whose they are, what Gateway each is, and what their status says."""

import asyncio
from typing import Any

import pytest

from controlplane.ambient.model import create
from controlplane.envoy import layer7
from controlplane.gateways import ingresses
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import MESH
from controlplane.status.events import EventWriter
from controlplane.status.ingresses import IngressStatusWriter, reports
from meshapi.mesh_config.model import MeshConfig
from meshapi.mesh_config.reading import config_of
from meshapi.resources import base, core
from meshapi.resources.ingress import Ingress, IngressClass
from meshkit import kube
from tests.support import kubernetes_objects as objects
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until

Json = dict[str, Any]
ANNOTATION = "kubernetes.io/ingress.class"


def document(annotation: str | None = None, **spec: Any) -> Json:
    annotations = {} if annotation is None else {ANNOTATION: annotation}
    return {"metadata": {"name": "web", "namespace": "shop", "annotations": annotations, "uid": "u"}, "spec": spec}


def ingress(annotation: str | None = None, **spec: Any) -> Ingress:
    return base.read(Ingress, document(annotation, **spec))


def a_class(controller: str) -> IngressClass:
    return base.read(IngressClass, {"metadata": {"name": "c"}, "spec": {"controller": controller}})


OURS, OTHERS = a_class(ingresses.CONTROLLER), a_class("example.com/other")


@pytest.mark.parametrize(
    ("item", "of_class", "mesh", "is_ours"),
    [
        (ingress(ingressClassName="c"), OURS, {}, True),
        (ingress(ingressClassName="c"), OTHERS, {}, False),
        (ingress(ingressClassName="c"), None, {}, False),
        (ingress(ingressClassName="c"), None, {"ingressControllerMode": "DEFAULT"}, False),
        (ingress(), None, {}, False),
        (ingress(), None, {"ingressControllerMode": "DEFAULT"}, True),
        (ingress("istio"), None, {}, True),
        (ingress("istio", ingressClassName="c"), OTHERS, {}, True),
        (ingress("other", ingressClassName="c"), OURS, {}, False),
        (ingress("other"), None, {"ingressClass": "other"}, True),
        (ingress("istio"), None, {"ingressClass": "other"}, False),
        (ingress(""), None, {"ingressControllerMode": "DEFAULT"}, True),
        (ingress("istio"), OURS, {"ingressControllerMode": "OFF"}, False),
        (ingress("istio"), OURS, {"ingressControllerMode": "UNSPECIFIED"}, False),
    ],
)
def test_whose_an_ingress_is(item: Ingress, of_class: IngressClass | None, mesh: Json, is_ours: bool) -> None:
    assert ingresses.is_claimed(item, of_class, config_of(mesh)) is is_ours


@pytest.mark.parametrize(
    ("mesh", "label"),
    [
        ({}, "ingressgateway"),
        ({"ingressSelector": "mine"}, "mine"),
        ({"ingressService": "own"}, "own"),
        ({"ingressService": "istio-ingressgateway"}, "ingressgateway"),
        ({"ingressService": "own", "ingressSelector": "mine"}, "mine"),
    ],
)
def test_which_pods_serve_ingresses(mesh: Json, label: str) -> None:
    assert ingresses.selector(config_of(mesh)) == {"istio": label}


def test_an_ingress_is_a_gateway_that_no_user_can_name() -> None:
    item = ingress(tls=[{"hosts": ["a.test"], "secretName": "a"}, {"secretName": "b"}, {"hosts": ["c.test"]}])
    found = ingresses.gateway_of(item, MeshConfig())
    assert ":" in found.metadata.name
    assert ingresses.shown(found.key) == "Ingress shop/web"
    servers = [(one.port.number, one.port.protocol, one.hosts) for one in found.spec.servers]
    assert servers == [(80, "HTTP", ("*",)), (443, "HTTPS", ("a.test",)), (443, "HTTPS", ("*",))]


async def test_the_status_has_the_gateways_addresses_and_an_event_says_what_is_not_served() -> None:
    model = create(MeshContext())
    found = reports(layer7.create(model))
    opened = asyncio.Event()
    opened.set()

    def put_service(**given: Any) -> None:
        item = {**objects.service("istio-ingressgateway", "istio-system"), "status": {"loadBalancer": given}}
        service = base.read(core.Service, item)
        model.inputs.of(core.Service).set(service.key, service)
        model.flush()

    model.inputs.config.set(MESH, MeshConfig())
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        given = document("istio", defaultBackend={"resource": {"kind": "Bucket", "name": "b"}})
        api.put("ingresses", given, "shop")
        model.inputs.of(Ingress).set(("shop", "web"), base.read(Ingress, given))
        put_service(ingress=[{"ip": "192.0.2.1"}, {"hostname": "lb.test"}])
        writer = IngressStatusWriter(client, found, EventWriter(client, instance="i"), opened)
        writing = asyncio.create_task(writer.run())

        def status() -> Any:
            return ((api.get("ingresses", "web", "shop") or {}).get("status") or {}).get("loadBalancer")

        await until(lambda: status() == {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.test"}]})
        await until(lambda: api.objects.get("events"))
        [event] = api.objects["events"].values()
        assert event["regarding"]["kind"] == "Ingress"
        assert (
            event["note"] == "no pod has the labels of the ingress gateway (istio=ingressgateway), so it is not served"
        )
        put_service()
        await until(lambda: status() == {"ingress": []})
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
