"""Secrets that DestinationRules name: which are watched, what is taken of them, and which proxy gets it."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator

import pytest

from controlplane.ambient.model import Model, create
from controlplane.envoy import layer7
from controlplane.envoy.layer7 import Layer7
from controlplane.gateways.secrets import read
from controlplane.inputs.mesh import MeshContext
from controlplane.proxy_secrets import ProxySecrets
from controlplane.xds import worlds
from meshapi import names
from meshapi.resources import base, core, destination_rule, gateway
from meshkit import kube
from meshkit.kube import Json
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put, remove
from tests.support.authority import TestAuthority
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until

AUTHORITY = TestAuthority()
PAIR = AUTHORITY.issue_for_hosts("client.example")
PLACE = ("shop", "pair")


def encoded(**data: bytes) -> Json:
    return {name.replace("_", "."): base64.b64encode(value).decode() for name, value in data.items()}


def secret(namespace: str = "shop") -> Json:
    data = encoded(tls_crt=PAIR[0], tls_key=PAIR[1], ca_crt=AUTHORITY.roots)
    return {"metadata": {"name": "pair", "namespace": namespace}, "data": data}


@pytest.mark.parametrize(
    "data",
    [
        encoded(tls_crt=PAIR[0], tls_key=PAIR[1], ca_crt=AUTHORITY.roots),
        encoded(cert=PAIR[0], key=PAIR[1], cacert=AUTHORITY.roots),
    ],
)
def test_both_forms_of_a_secret_are_taken(data: Json) -> None:
    found = read({"data": data}).secret
    assert (found.chain.encode(), found.key.encode(), found.roots.encode()) == (*PAIR, AUTHORITY.roots)
    assert (found.fault, found.roots_fault) == ("", "")
    assert PAIR[1].decode() not in repr(found)


@pytest.mark.parametrize(
    ("data", "fault", "roots_fault"),
    [
        ({}, "has no key tls.crt", "has no key ca.crt"),
        ({"ca.crt": "!"}, "has no key tls.crt", "has no base64"),
        (encoded(ca_crt=b"Hello world"), "has no key tls.crt", "has no certificate in ca.crt"),
        (
            encoded(ca_crt=AUTHORITY.roots, ca_crl=b"Hello world"),
            "has no key tls.crt",
            "has no revocation list in ca.crl",
        ),
        (encoded(ca_crt=AUTHORITY.roots, tls_crt=PAIR[0]), "has no key tls.key", ""),
    ],
)
def test_what_cannot_be_used_is_said(data: Json, fault: str, roots_fault: str) -> None:
    found = read({"data": data}).secret
    assert fault in found.fault
    assert roots_fault in found.roots_fault
    assert not (roots_fault and found.roots), "roots whose revocation list is lost are not used"


def rule(mode: str = "MUTUAL", credential: str = "pair") -> destination_rule.DestinationRule:
    tls = {"mode": mode, "credentialName": credential}
    spec = {"host": "web.shop.svc.cluster.local", "trafficPolicy": {"tls": tls}}
    return base.read(destination_rule.DestinationRule, {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})


def with_waypoints() -> tuple[Model, Layer7]:
    """Two namespaces, each with a waypoint; the service of the first has a DestinationRule."""
    model = create(MeshContext())
    made = layer7.create(model)
    for namespace in ("shop", "bank"):
        item = objects.gateway("waypoint", namespace)
        put(model, base.read(gateway.Gateway, item))
        service = objects.service("web", namespace, ports=[{"port": 80, "name": "http"}])
        service["metadata"]["labels"] = {names.USE_WAYPOINT_LABEL: "waypoint"}
        put(model, base.read(core.Service, service))
    put(model, rule())
    model.flush()
    return model, made


@contextlib.asynccontextmanager
async def following(api: FakeKubernetes, model: Model, made: Layer7) -> AsyncIterator[ProxySecrets]:
    async with kube.Client(kube.explicit(api.url)) as client, asyncio.TaskGroup() as tasks:
        found = ProxySecrets(model.inputs, model.gateways, made.envoy.credentials, lambda _: None, client)
        task = tasks.create_task(found.run())
        yield found
        task.cancel()


async def test_a_secret_is_read_in_the_namespace_of_the_proxy_that_needs_it_and_is_for_that_alone() -> None:
    """tenant-crossing: a Secret of the same name in another namespace is never requested."""
    model, made = with_waypoints()
    seen = worlds.create(made)

    def served(namespace: str) -> dict[str, bytes]:
        model.flush()
        seen.publish(is_settled=True)
        found = seen.view((namespace, "waypoint")).all(names.SECRET_TYPE)
        return {one.name: one.body for one in found}

    async with FakeKubernetes() as api:
        api.put("secrets", secret("bank"), "bank")
        async with following(api, model, made) as credentials:
            assert credentials.pending() == {PLACE}
            await until(lambda: model.inputs.secrets.find(PLACE))
            assert list(model.inputs.secrets.keys()) == [PLACE]
            assert list(served("shop")) == ["kubernetes://pair/-cacert"], "roots that no certificate fits"
            nobody = served("shop")
            api.put("secrets", secret(), "shop")
            await until(lambda: model.inputs.secrets.find(PLACE).chain)  # type: ignore[union-attr]
            found = served("shop")
            assert sorted(found) == ["kubernetes://pair", "kubernetes://pair/-cacert"]
            assert AUTHORITY.roots.strip() in found["kubernetes://pair/-cacert"]
            assert served("bank") == {}
            api.remove("secrets", "pair", "shop")
            await until(lambda: model.inputs.secrets.find(PLACE).fault)  # type: ignore[union-attr]
            assert served("shop") == nobody, "a removed Secret leaves no roots"
            remove(model, rule())
            model.flush()
            await until(lambda: model.inputs.secrets.find(PLACE) is None)
            assert served("shop") == {}


def test_without_a_secret_nothing_is_wanted() -> None:
    model, made = with_waypoints()
    assert made.envoy.credentials.wanted() == {PLACE}
    put(model, rule(mode="DISABLE"))
    model.flush()
    assert made.envoy.credentials.wanted() == set()
