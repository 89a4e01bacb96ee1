"""The admin pages: the contract is Istio's, whose command line decodes the dump into fixed types."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from meshapi import names
from meshapi.proto import authorization_pb2, engine_pb2, workload_pb2
from meshengine import Engine
from ztunnel import pages
from ztunnel.settings import ZtunnelSettings

WAYPOINT = workload_pb2.GatewayAddress(
    hostname=workload_pb2.NamespacedHostname(namespace="shop", hostname="way.shop.svc.cluster.local"),
    hbone_mtls_port=15008,
)
BY_ADDRESS = workload_pb2.GatewayAddress(
    address=workload_pb2.NetworkAddress(network="net1", address=b"\x0a\x00\x00\x09"), hbone_mtls_port=15008
)
PORT = workload_pb2.Port(service_port=80, target_port=8080)


@pytest.fixture
def engine():
    made = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    yield made
    made.close()


def dumped(engine: Engine, section: str) -> Any:
    return json.loads(pages.config_dump(engine, ZtunnelSettings(node_name="n1")))[section]


def put(engine: Engine, *resources: workload_pb2.Workload | workload_pb2.Service) -> None:
    for number, one in enumerate(resources):
        kind = "workload" if isinstance(one, workload_pb2.Workload) else "service"
        address = workload_pb2.Address(**{kind: one})
        engine.apply(names.ADDRESS_TYPE, [(f"{kind}-{number}", address.SerializeToString())], [])


@pytest.mark.parametrize(
    ("gateway", "expected"), [(WAYPOINT, "shop/way.shop.svc.cluster.local"), (BY_ADDRESS, "net1/10.0.0.9")]
)
def test_a_waypoint_is_named_by_one_text(engine: Engine, gateway: workload_pb2.GatewayAddress, expected: str) -> None:
    put(
        engine,
        workload_pb2.Workload(uid="u", namespace="shop", waypoint=gateway),
        workload_pb2.Service(namespace="shop", name="web", hostname="web.shop", waypoint=gateway),
    )
    for section in ("workloads", "services"):
        assert dumped(engine, section)[0]["waypoint"] == {"destination": expected, "hboneMtlsPort": 15008}


def test_a_workload_lists_its_services_by_name(engine: Engine) -> None:
    ports = workload_pb2.PortList(ports=[PORT])
    put(engine, workload_pb2.Workload(uid="u", namespace="shop", services={"shop/b": ports, "shop/a": ports}))
    assert dumped(engine, "workloads")[0]["services"] == ["shop/a", "shop/b"]


def test_how_a_service_balances_is_in_istios_words(engine: Engine) -> None:
    balancing = workload_pb2.LoadBalancing
    service = workload_pb2.Service(
        namespace="shop",
        hostname="web.shop",
        ports=[PORT],
        ip_families=workload_pb2.IPV4_ONLY,
        load_balancing=balancing(
            mode=balancing.FAILOVER,
            routing_preference=[balancing.NETWORK, balancing.SUBZONE],
            health_policy=balancing.ALLOW_ALL,
        ),
    )
    put(engine, service)
    (found,) = dumped(engine, "services")
    expected = {"mode": "Failover", "routingPreferences": ["Network", "Subzone"], "healthPolicy": "AllowAll"}
    assert found["loadBalancer"] == expected
    assert found["ipFamilies"] == "IPv4"
    assert found["ports"] == {"80": 8080}


def test_ranges_of_a_service_are_objects(engine: Engine) -> None:
    address = workload_pb2.NetworkAddress(network="net1", address=b"\x0a\x01\x00\x00", length=16)
    put(engine, workload_pb2.Service(namespace="shop", hostname="web.shop", addresses=[address]))
    (found,) = dumped(engine, "services")
    assert found["cidrVips"] == [{"network": "net1", "cidr": "10.1.0.0/16"}]


def test_lists_are_there_when_they_are_empty(engine: Engine) -> None:
    put(
        engine,
        workload_pb2.Workload(uid="u", namespace="shop"),
        workload_pb2.Service(namespace="shop", hostname="web.shop"),
    )
    policy = authorization_pb2.Authorization(name="p", namespace="shop")
    engine.apply(names.AUTHORIZATION_TYPE, [("shop/p", policy.SerializeToString())], [])
    assert dumped(engine, "workloads")[0]["workloadIps"] == []
    service = dumped(engine, "services")[0]
    assert (service["vips"], service["ports"], service["endpoints"]) == ([], {}, {})
    assert dumped(engine, "policies")[0]["rules"] == []


def test_a_service_account_of_a_policy_is_an_object(engine: Engine) -> None:
    match = authorization_pb2.Match(
        service_accounts=[authorization_pb2.ServiceAccountMatch(namespace="shop", serviceAccount="web")]
    )
    clause = authorization_pb2.Clause(matches=[match])
    policy = authorization_pb2.Authorization(
        name="p",
        namespace="shop",
        action=authorization_pb2.DENY,
        scope=authorization_pb2.NAMESPACE,
        rules=[authorization_pb2.Rule(clauses=[clause])],
    )
    engine.apply(names.AUTHORIZATION_TYPE, [("shop/p", policy.SerializeToString())], [])
    (found,) = dumped(engine, "policies")
    assert found["rules"] == [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "web"}]}]]]
    assert (found["action"], found["scope"]) == ("Deny", "Namespace")


async def authorized(engine: Engine, **asked: str) -> tuple[int, str]:
    """Ask the page ``/authorize``; returns status and body."""
    handler = pages.routes(engine, ZtunnelSettings(node_name="n1"))["GET /authorize"]
    answer = await handler(make_mocked_request("GET", f"/authorize?{urlencode(asked)}"))
    assert isinstance(answer, web.Response)
    return answer.status, answer.text or ""


async def test_the_verdict_about_a_connection_is_the_engines(engine: Engine) -> None:
    put(engine, workload_pb2.Workload(uid="u", namespace="shop", service_account="web"))
    match = authorization_pb2.Match(
        service_accounts=[authorization_pb2.ServiceAccountMatch(namespace="shop", serviceAccount="bad")]
    )
    policy = authorization_pb2.Authorization(
        name="p",
        namespace="shop",
        action=authorization_pb2.DENY,
        scope=authorization_pb2.NAMESPACE,
        rules=[authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[match])])],
    )
    engine.apply(names.AUTHORIZATION_TYPE, [("shop/p", policy.SerializeToString())], [])
    asked = {"workload": "u", "source": "10.0.0.1", "destination": "10.0.0.2", "port": "80"}
    status, body = await authorized(engine, **asked, identity="spiffe://cluster.local/ns/shop/sa/bad")
    assert (status, json.loads(body)) == (
        200,
        {"allowed": False, "policy": "shop/p", "reason": "explicitly denied by: shop/p", "dryRun": []},
    )
    status, body = await authorized(engine, **asked)
    assert (status, json.loads(body)["allowed"]) == (200, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workload": "v"}, "no workload has this uid"),
        ({"source": "x"}, "source_ip"),
        ({"port": "x"}, "invalid literal"),
    ],
)
async def test_a_question_that_cannot_be_answered_says_why(engine: Engine, change: dict[str, str], said: str) -> None:
    put(engine, workload_pb2.Workload(uid="u", namespace="shop"))
    asked = {"workload": "u", "source": "10.0.0.1", "destination": "10.0.0.2", "port": "80"} | change
    status, body = await authorized(engine, **asked)
    assert status == 400
    assert said in body
