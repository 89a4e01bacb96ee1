"""What the proxy refuses of an EnvoyFilter: it is on the object, and the last good configuration serves on."""

from typing import Any

from controlplane.inputs.rejections import name_in
from controlplane.inputs.sources import Rejection
from meshapi import names
from tests.scenarios import proxy, world
from tests.scenarios.files import Scenario
from tests.support.waiting import until

SCENARIO: dict[str, Any] = {
    "about": "A patch that the proxy refuses.",
    "services": {"web": {}, "other": {}},
    "steps": [],
}
NAME = "EnvoyFilter/bad"


def bad(apply_to: str, value: dict[str, Any]) -> dict[str, Any]:
    patch = {"operation": "ADD" if apply_to == "HTTP_FILTER" else "MERGE", "value": value}
    return {
        "kind": "EnvoyFilter",
        "metadata": {"name": "bad"},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "web"}],
            "configPatches": [{"applyTo": apply_to, "patch": patch}],
        },
    }


LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"


async def test_a_filter_that_the_proxy_refuses_is_on_the_object_and_requests_go_on() -> None:
    async with world.running(Scenario.model_validate(SCENARIO)) as running:
        web = running.address("web", 0)
        assert await proxy.get(running, web) == 200
        value = {"name": "lua", "typedConfig": {"@type": LUA, "inlineCode": "not a program"}}
        running.put(bad("HTTP_FILTER", value))
        running.publish()
        await until(lambda: running.refusals.reasons)
        [reason] = running.refusals.reasons
        assert "main_internal" in reason
        rejection = Rejection("waypoint-1.default", reason, others=False)
        running.model.inputs.rejections.set(
            (names.LISTENER_TYPE, name_in(("default", "waypoint"), "main_internal")), rejection
        )
        running.publish()
        assert "rejected by waypoint-1.default" in running.message(NAME)
        assert "the last good form stays in effect" in running.message(NAME)
        assert await proxy.get(running, web) == 200
        running.remove(NAME)
        running.put(bad("HTTP_FILTER", {"name": "lua", "typedConfig": {"@type": LUA}}))
        running.model.inputs.rejections.set(
            (names.LISTENER_TYPE, name_in(("default", "waypoint"), "main_internal")), None
        )
        running.publish()
        assert running.message(NAME) == ""
        assert await proxy.get(running, web) == 200


async def test_routes_that_the_proxy_refuses_are_those_of_one_service_only() -> None:
    async with world.running(Scenario.model_validate(SCENARIO)) as running:
        running.put(bad("VIRTUAL_HOST", {"domains": ["*"]}))
        running.publish()
        await until(lambda: running.refusals.reasons)
        assert "inbound-vip|8080|http|web.default.svc.cluster.local" in running.refusals.reasons[0]
        assert await proxy.get(running, running.address("web", 0)) == 200
        assert await proxy.get(running, running.address("other", 0)) == 200
