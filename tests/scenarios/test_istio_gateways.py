"""What a scenario's file cannot say about Gateways of Istio's API: open connections, and who gets which secrets."""

import asyncio
from typing import Any

import pytest

from controlplane.gateways import place
from meshapi import names
from meshapi.resources import base, core
from tests.scenarios import world
from tests.scenarios.files import Scenario, Service
from tests.scenarios.proxy import stat
from tests.scenarios.test_gateways import answered, connected, serial
from tests.support import kubernetes_objects

Json = dict[str, Any]
INGRESS, EGRESS = {"istio": "ingressgateway"}, {"istio": "egressgateway"}


def secret(name: str, **certificate: Any) -> Json:
    return {"kind": "Secret", "metadata": {"name": name, "namespace": "istio-system"}, "certificate": certificate}


def gateway(name: str, *servers: Json, selector: dict[str, str] = INGRESS) -> Json:
    spec = {"selector": selector, "servers": list(servers)}
    return {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": name}, "spec": spec}


def https(host: str, credential: str, mode: str = "SIMPLE") -> Json:
    port = {"number": 443, "protocol": "HTTPS", "name": host}
    return {"port": port, "hosts": [host], "tls": {"mode": mode, "credentialName": credential}}


def virtual_service(name: str, host: str, *gateways: str, path: str = "/") -> Json:
    rule = {"match": [{"uri": {"prefix": path}}], "route": [{"destination": {"host": "web"}}]}
    spec = {"hosts": [host], "gateways": list(gateways), "http": [rule]}
    return {"kind": "VirtualService", "metadata": {"name": name}, "spec": spec}


def scenario(*resources: Json) -> Scenario:
    return Scenario(about="", gateway="istio", services={"web": Service()}, resources=resources, steps=())


async def test_a_rotated_certificate_and_a_further_gateway_close_no_connection() -> None:
    first = gateway("edge", https("web.example", "web"))
    given = (secret("web", hosts=["web.example"]), first, virtual_service("web", "web.example", "edge", path="/1"))
    async with world.running(scenario(*given)) as running:
        pair = await connected(running, "web.example")
        assert await answered(pair, "/1") == 200
        shown = await serial(running, "web.example")
        running.put(secret("web", hosts=["web.example"], form="generic"))
        running.put(secret("more", hosts=["more.example"]))
        running.put(virtual_service("more", "web.example", "edge", path="/2"))
        running.put(gateway("late", https("more.example", "more")))
        running.publish()
        async with asyncio.timeout(10):
            while await serial(running, "web.example") == shown:
                await asyncio.sleep(0.05)
            while await stat(running, "listener_manager.listener_in_place_updated") < 1:
                await asyncio.sleep(0.05)
        assert await stat(running, "listener_manager.total_filter_chains_draining") == 0
        assert await answered(pair, "/2") == 200, "the connection is the one of before"
        pair[1].close()


async def test_a_changed_rule_is_one_small_resource_and_no_listener() -> None:
    servers = [{"port": {"number": 80, "protocol": "HTTP", "name": "http"}, "hosts": ["*"]}]
    rules = [virtual_service(f"v{number}", f"h{number}.example", "edge") for number in range(50)]
    async with world.running(scenario(gateway("edge", *servers), *rules)) as running:
        changes: list[tuple[str, frozenset[str]]] = []
        end = running.worlds.view(running.view).watch(lambda type_url, changed: changes.append((type_url, changed)))
        running.put(virtual_service("v7", "h7.example", "edge", path="/changed"))
        running.publish()
        end()
        assert changes == [(names.ROUTE_TYPE, frozenset({"http.80"}))]


@pytest.mark.parametrize("names_it", [True, False], ids=["names it", "does not name it"])
async def test_pods_get_the_secrets_of_the_gateways_that_select_them_only(names_it: bool) -> None:
    """tenant-crossing: no proxy can ask for a certificate, or for roots, that its own Gateways do not use."""
    other = gateway("other", https("other.example", "other", "MUTUAL"), selector=EGRESS)
    own = gateway("own", https("own.example", "other" if names_it else "own", "MUTUAL"))
    given = (secret("own", hosts=["own.example"], roots="own"), secret("other", hosts=["other.example"], roots="own"))
    async with world.running(scenario(*given, other, own)) as running:
        item = kubernetes_objects.pod("egress", "istio-system", labels=EGRESS)
        running.put({"kind": "Pod", **item})
        running.publish()
        name = "kubernetes-gateway://istio-system/other"
        view = running.worlds.view(running.view)
        for wanted in (name, f"{name}/roots-cacert"):
            assert (view.lookup(names.SECRET_TYPE, wanted) is not None) is names_it, wanted
        egress = running.worlds.view(place.of_pod(base.read(core.Pod, item)).key)
        assert egress.lookup(names.SECRET_TYPE, name) is not None
        assert egress.lookup(names.SECRET_TYPE, "kubernetes-gateway://istio-system/own") is None


@pytest.mark.parametrize("is_sealed", [True, False], ids=["passed through", "started"])
async def test_secrets_for_tls_that_is_not_started_are_not_read(is_sealed: bool) -> None:
    tls = {"mode": "SIMPLE", "credentialName": "roots"}
    spec = {"host": "web.default.svc.cluster.local", "trafficPolicy": {"tls": tls}}
    rule = {"kind": "DestinationRule", "metadata": {"name": "web", "namespace": "istio-system"}, "spec": spec}
    sealed = {"port": {"number": 15443, "protocol": "TLS", "name": "tls"}, "tls": {"mode": "AUTO_PASSTHROUGH"}}
    plain = {"port": {"number": 80, "protocol": "HTTP", "name": "http"}}
    server = {**(sealed if is_sealed else plain), "hosts": ["*"]}
    async with world.running(scenario(gateway("edge", server), virtual_service("web", "*", "edge"), rule)) as running:
        assert running.layer7.envoy.credentials.wanted() == (set() if is_sealed else {("istio-system", "roots")})
