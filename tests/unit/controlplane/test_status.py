"""Conditions on policies: their content, and that only the leader writes them, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.ambient import authorization
from controlplane.ambient.model import create
from controlplane.envoy import layer7
from controlplane.inputs.config_warnings import ConfigWarnings
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.registry import Registry
from controlplane.inputs.sources import Rejection
from controlplane.metrics import Metrics
from controlplane.status import conditions
from controlplane.status.conditions import Condition
from controlplane.status.outcomes import Outcomes
from controlplane.status.writer import StatusWriter
from meshapi import names
from meshapi.resources import base, security
from meshkit import kube
from tests.support.fake_kubernetes import FakeKubernetes, Json
from tests.support.kubernetes_objects import gateway, hostname_of, namespace, peer, policy, service, service_entry
from tests.support.waiting import until

MESH = MeshContext()
WEB = {"matchLabels": {"app": "web"}}
DRY = {"istio.io/dry-run": "true"}


def of_policy(mesh: MeshContext = MESH, **options: Any) -> Condition | None:
    item = base.read(security.AuthorizationPolicy, policy("p", **options))
    return conditions.of_policy(item, mesh, authorization.translate(item, mesh).problems)


def of_peer(namespace: str = "shop", **options: Any) -> Condition:
    return conditions.of_peer(base.read(security.PeerAuthentication, peer("p", namespace, **options)), MESH)


def test_a_policy_fully_enforced_at_layer_4_is_accepted() -> None:
    assert of_policy(rules=[{"to": [{"operation": {"ports": ["80"]}}]}]) == Condition(
        True, "Accepted", "attached to ztunnel"
    )
    assert of_peer(mode="STRICT").accepted


def test_a_waypoints_policy_has_no_condition_of_layer_4() -> None:
    target = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}
    assert of_policy(targetRefs=[target]) is None


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"action": "AUDIT"}, ["AUDIT"]),
        (
            {"rules": [{"to": [{"operation": {"paths": ["/x"]}}]}]},
            ["spec.rules[0].to[0].operation.paths", "spec.rules[0] allows nothing"],
        ),
        (
            {"action": "DENY", "rules": [{}, {"to": [{"operation": {"paths": ["/x"]}}]}]},
            ["spec.rules[1].to[0].operation.paths", "spec.rules[1] denies every connection"],
        ),
        (
            {"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]}]},
            ["spec.rules[0] denies by its other attributes alone"],
        ),
        (
            {"rules": [{"from": [{"source": {"pricipals": ["x"], "namespaces": ["a"]}}]}]},
            ["source.pricipals is not known and ignored"],
        ),
        ({"annotations": DRY}, ["dryRunPolicies"]),
    ],
)
def test_fields_not_enforced_at_layer_4_are_named(spec: dict[str, Any], expected: list[str]) -> None:
    found = of_policy(**spec)
    assert found is not None
    assert (found.accepted, found.reason) == (False, "UnsupportedValue")
    for words in expected:
        assert words in found.message


def test_a_dry_run_that_is_sent_is_accepted_and_says_so() -> None:
    found = of_policy(MeshContext(sends_dry_run=True), annotations=DRY)
    assert found is not None
    assert found.accepted
    assert "decides nothing" in found.message


def test_a_message_is_bounded() -> None:
    rules = [{"to": [{"operation": {"paths": ["/x"]}}]}] * 50
    found = of_policy(rules=rules)
    assert found is not None
    assert found.message.endswith("and 90 more")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "DISABLE"}, "spec.mtls.mode DISABLE"),
        ({"mode": "STRICT", "ports": {"80": "DISABLE"}, "selector": {"app": "web"}}, "spec.portLevelMtls[80].mode"),
        ({"mode": "STRICT", "ports": {"80": "PERMISSIVE"}}, "only with spec.selector"),
        ({"mode": "STRICT", "selector": {"app": "web"}, "namespace": "istio-system"}, "root namespace"),
    ],
)
def test_unsupported_fields_of_a_peer_authentication_are_named(options: dict[str, Any], expected: str) -> None:
    found = of_peer(**options)
    assert not found.accepted
    assert expected in found.message


class Following:
    """A replica's graph, what it reads, and its writer."""

    def __init__(self, client: kube.Client) -> None:
        metrics = Metrics()
        self.model = create(MESH)
        self.registry = Registry(
            client,
            self.model.inputs,
            system_namespace=names.DEFAULT_NAMESPACE,
            metrics=metrics,
            warnings=ConfigWarnings(metrics),
            touch=self.touch,
        )
        self._synced = asyncio.Event()
        self.writer = StatusWriter(client, Outcomes(layer7.create(self.model)), self._synced)

    def touch(self, _: str = "") -> None:
        asyncio.get_running_loop().call_soon(self.model.flush)

    async def run(self) -> None:
        await self.registry.wait_synced()
        self.model.flush()
        self._synced.set()
        await self.writer.run()


@contextlib.asynccontextmanager
async def leading(api: FakeKubernetes) -> AsyncIterator[Following]:
    async with kube.Client(kube.explicit(api.url)) as client, asyncio.TaskGroup() as tasks:
        following = Following(client)
        running = [*(informer.run() for informer in following.registry.informers), following.run()]
        running_tasks = [tasks.create_task(one) for one in running]
        yield following
        for task in running_tasks:
            task.cancel()


def condition(api: FakeKubernetes, name: str, plural: str = "authorizationpolicies") -> Json:
    item = api.get(plural, name, "shop") or {}
    found = (item.get("status") or {}).get("conditions") or [{}]
    return dict(found[0])


def writes(api: FakeKubernetes) -> int:
    return sum(request.startswith("PATCH") for request in api.requests)


def put(api: FakeKubernetes, item: Json, generation: int, plural: str = "authorizationpolicies") -> None:
    item["metadata"]["generation"] = generation
    held = api.get(plural, item["metadata"]["name"], "shop")
    api.put(plural, {**item, "status": (held or {}).get("status", {})})


async def test_a_condition_is_written_once_and_follows_the_object() -> None:
    async with FakeKubernetes() as api:
        put(api, policy("p"), 1)
        async with leading(api):
            await until(lambda: condition(api, "p"))
            first = condition(api, "p")
            assert (first["type"], first["status"], first["observedGeneration"]) == ("ZtunnelAccepted", "True", 1)
            put(api, policy("p", action="DENY"), 2)
            await until(lambda: condition(api, "p")["observedGeneration"] == 2)
            assert condition(api, "p")["lastTransitionTime"] == first["lastTransitionTime"], "it is still accepted"
            put(api, peer("s", mode="STRICT"), 1, "peerauthentications")
            await until(lambda: condition(api, "s", "peerauthentications"))
            assert writes(api) == 3
        async with leading(api):  # the next leader finds everything as it shall be
            put(api, policy("other"), 1)
            await until(lambda: condition(api, "other"))
            assert writes(api) == 4


async def test_conditions_are_recomputed_when_the_mesh_config_changes() -> None:
    async with FakeKubernetes() as api:
        put(api, policy("p", annotations=DRY), 1)
        async with leading(api) as following:
            await until(lambda: condition(api, "p").get("status") == "False")
            following.registry.discovery.put_mesh(MeshContext(sends_dry_run=True), ())
            following.touch()
            await until(lambda: condition(api, "p")["status"] == "True")


async def test_an_object_that_cannot_be_read_says_why() -> None:
    async with FakeKubernetes() as api:
        put(api, policy("p"), 1)
        async with leading(api):
            await until(lambda: condition(api, "p"))
            put(api, policy("p", rules=[{"to": [{"operation": {"ports": ["http"]}}]}]), 2)
            await until(lambda: condition(api, "p")["reason"] == "Invalid")
            assert "spec.rules[0].to[0].operation.ports[0]" in condition(api, "p")["message"]
            assert condition(api, "p")["observedGeneration"] == 2
            put(api, policy("p"), 3)
            await until(lambda: condition(api, "p")["reason"] == "Accepted")


async def test_a_policy_that_becomes_a_waypoints_loses_the_condition() -> None:
    async with FakeKubernetes() as api:
        put(api, policy("p"), 1)
        async with leading(api):
            await until(lambda: condition(api, "p"))
            before = writes(api)
            put(api, policy("p", targetRefs=[{"kind": "Service", "name": "web"}]), 2)
            await until(lambda: writes(api) > before)


async def test_an_invalid_object_without_another_form_says_why_until_it_is_removed() -> None:
    bad = service_entry("e", hosts=["*"], resolution="DNS")
    async with FakeKubernetes() as api:
        put(api, bad, 4, "serviceentries")
        async with leading(api) as following:
            await until(lambda: condition(api, "e", "serviceentries"))
            found = condition(api, "e", "serviceentries")
            assert (found["reason"], found["observedGeneration"]) == ("Invalid", 4)
            assert len(following.model.inputs.faults) == 1
            api.remove("serviceentries", "e", "shop")
            await until(lambda: not len(following.model.inputs.faults))


async def test_a_resource_that_a_proxy_refuses_is_on_the_status_of_its_object() -> None:
    async with FakeKubernetes() as api:
        put(api, service_entry("e", hosts=["a.test"], resolution="DNS"), 3, "serviceentries")
        put(api, policy("p"), 1)
        async with leading(api) as following:
            await until(lambda: condition(api, "p").get("status") == "True")
            assert not (api.get("serviceentries", "e", "shop") or {})["status"].get("conditions")
            refused = {
                (names.AUTHORIZATION_TYPE, "shop/p"): Rejection("ztunnel-a.istio-system", "too large", others=False),
                (names.ADDRESS_TYPE, "shop/a.test"): Rejection("ztunnel-b.istio-system", "no such port", others=True),
            }
            for name, rejection in refused.items():
                following.model.inputs.rejections.set(name, rejection)
            following.touch()
            await until(lambda: condition(api, "p")["reason"] == "RejectedByProxy")
            assert "rejected by ztunnel-a.istio-system: too large" in condition(api, "p")["message"]
            await until(lambda: condition(api, "e", "serviceentries").get("observedGeneration") == 3)
            message = condition(api, "e", "serviceentries")["message"]
            assert message.startswith("rejected by ztunnel-b.istio-system and others: no such port")
            for name in refused:
                following.model.inputs.rejections.set(name, None)
            following.touch()
            await until(lambda: condition(api, "p")["status"] == "True")
            await until(lambda: not condition(api, "e", "serviceentries"))


def bound(api: FakeKubernetes, plural: str, name: str) -> Json:
    found = ((api.get(plural, name, "shop") or {}).get("status") or {}).get("conditions") or []
    return next((dict(one) for one in found if one["type"] == "istio.io/WaypointBound"), {})


async def test_an_attached_service_says_to_which_waypoint_or_why_not() -> None:
    async with FakeKubernetes() as api:
        api.put("namespaces", namespace("shop", {names.USE_WAYPOINT_LABEL: "waypoint"}))
        put(api, service("web"), 1, "services")
        api.put("gateways", gateway())
        async with leading(api):
            await until(lambda: bound(api, "services", "web"))
            found = bound(api, "services", "web")
            assert (found["status"], found["reason"]) == ("False", "WaypointIsNotReady")
            assert found["message"] == 'waypoint "shop/waypoint" is not ready'
            api.put("gateways", gateway(addresses=hostname_of()))
            await until(lambda: bound(api, "services", "web")["status"] == "True")
            found = bound(api, "services", "web")
            assert (found["reason"], found["message"]) == ("WaypointAccepted", "attached to waypoint shop/waypoint")
            api.put("namespaces", namespace("shop"))
            await until(lambda: not bound(api, "services", "web"))


async def test_an_object_has_a_condition_of_each_type_at_the_same_time() -> None:
    entry = service_entry("e", hosts=["a.test"], resolution="DNS")
    entry["metadata"]["labels"] = {names.USE_WAYPOINT_LABEL: "waypoint"}
    async with FakeKubernetes() as api:
        api.put("gateways", gateway(addresses=hostname_of()))
        put(api, entry, 1, "serviceentries")
        async with leading(api) as following:
            await until(lambda: bound(api, "serviceentries", "e"))
            refused = Rejection("ztunnel-a.istio-system", "no such port", others=False)
            following.model.inputs.rejections.set((names.ADDRESS_TYPE, "shop/a.test"), refused)
            following.touch()
            await until(lambda: condition(api, "e", "serviceentries")["reason"] == "RejectedByProxy")
            await until(lambda: bound(api, "serviceentries", "e")["status"] == "True")
            following.model.inputs.rejections.set((names.ADDRESS_TYPE, "shop/a.test"), None)
            following.touch()
            await until(lambda: condition(api, "e", "serviceentries")["reason"] == "WaypointAccepted")
