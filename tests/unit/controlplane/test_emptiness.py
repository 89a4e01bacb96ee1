"""Threat ``missing-key-material``, ``empty-selectors``: failing open on what is missing or empty: an empty match never
means every client.
"""

from typing import Any

import pytest

from controlplane.inputs import fail_closed
from meshapi.errors import InvalidResource
from meshapi.proto import authorization_pb2 as pb
from meshapi.resources import base, security, values
from tests.support import authorization_model
from tests.support import kubernetes_objects as objects
from tests.support.running_control_plane import Recorder, Running
from tests.support.waiting import until

WEB = {"matchLabels": {"app": "web"}}
BAD: dict[str, Any] = {"from": [{"source": {"ipBlocks": ["ten"]}}]}


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"from": []}, "from"),
        ({"to": []}, "to"),
        ({"from": [{}]}, "from[0].source"),
        ({"from": [{"source": None}]}, "from[0].source"),
        ({"from": [{"source": {}}]}, "from[0].source"),
        ({"from": [{"source": {"principals": []}}]}, "from[0].source"),
        ({"from": [{"source": {"pricipals": ["cluster.local/ns/shop/sa/web"]}}]}, "from[0].source"),
        ({"to": [{"operation": {}}]}, "to[0].operation"),
        ({"to": [{"operation": {"ports": []}}]}, "to[0].operation"),
        ({"when": [{"key": "source.ip"}]}, "when[0]"),
        ({"when": [{"key": "source.ip", "values": []}]}, "when[0]"),
    ],
)
def test_empty_matches_are_refused(action: str, rule: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        base.read(security.AuthorizationPolicy, objects.policy("p", action=action, rules=[rule]))
    assert refused.value.field == f"spec.rules[0].{field}"


@pytest.mark.parametrize("absent", [{}, {"from": None}, {"from": None, "to": None, "when": None}])
def test_an_absent_field_of_a_rule_is_no_condition(absent: dict[str, Any]) -> None:
    policy = base.read(security.AuthorizationPolicy, objects.policy("p", rules=[absent]))
    assert policy.spec.rules == (security.Rule(),)


@pytest.mark.parametrize(
    ("spec", "action", "rules"),
    [
        ({"rules": [BAD]}, "ALLOW", 0),
        ({"action": "ALLOW", "rules": [BAD]}, "ALLOW", 0),
        ({"action": "DENY", "rules": [BAD]}, "DENY", 1),
        ({"action": "deny", "rules": []}, "DENY", 1),
        ({"action": 5}, "DENY", 1),
        ({"action": "AUDIT", "rules": [BAD]}, "AUDIT", 0),
        ({"action": "CUSTOM", "rules": [BAD]}, "AUDIT", 0),
        ({"action": "DENY", "rules": [BAD], "targetRefs": [{"kind": "Service", "name": "web"}]}, "AUDIT", 0),
    ],
)
def test_an_unreadable_policy_gets_a_fail_closed_substitute(spec: dict[str, Any], action: str, rules: int) -> None:
    closed = fail_closed.policy(objects.policy("p", **spec, selector=WEB))
    assert (closed.spec.action, len(closed.spec.rules)) == (action, rules)
    assert closed.spec.selector == values.WorkloadSelector(match_labels={"app": "web"})


@pytest.mark.parametrize("selector", [{"matchLabels": {"app": 5}}, {"matchLabels": "web"}, "web", {}])
def test_a_substitute_without_a_readable_selector_applies_to_the_whole_namespace(selector: Any) -> None:
    assert fail_closed.policy(objects.policy("p", action="DENY", selector=selector)).spec.selector is None


async def test_an_invalid_policy_without_a_last_good_form_denies_all_traffic_until_it_is_fixed(
    running: Running,
) -> None:
    seen = Recorder()

    def passes() -> bool:
        return authorization_model.evaluate(
            {name: seen.policy(name) for name in seen.held if name in {"shop/p", "shop/q"}}, "shop", [], OUTSIDER
        ).allowed

    async with running.subscriber(seen):
        running.api.put("authorizationpolicies", objects.policy("p", action="DENY", rules=[BAD]))
        await until(lambda: "shop/p" in seen.held)
        assert not passes()
        # Bad again, in another way: there still is no good form to go back to.
        running.api.put("authorizationpolicies", objects.policy("p", action="ALLOW", rules=[BAD]))
        await until(lambda: seen.policy("shop/p").action == pb.ALLOW)
        assert not passes()
        good = {"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}
        running.api.put("authorizationpolicies", objects.policy("p", action="ALLOW", rules=[good]))
        await until(passes)
        # From here on there is: it stays.
        running.api.put("authorizationpolicies", objects.policy("p", action="DENY", rules=[BAD]))
        running.api.put("authorizationpolicies", objects.policy("q", action="DENY", rules=[]))
        await until(lambda: "shop/q" in seen.held)
        assert passes()


async def test_an_invalid_peer_authentication_without_a_last_good_form_requires_mutual_tls(running: Running) -> None:
    seen = Recorder()
    async with running.subscriber(seen):
        item = objects.peer("p", selector={"app": "web"}, mode="strict")
        running.api.put("peerauthentications", item)
        await until(lambda: "istio-system/istio_converted_static_strict" in seen.held)
        web = "Kubernetes//Pod/shop/web"
        strict = ["istio-system/istio_converted_static_strict"]
        await until(lambda: list(seen.workload(web).authorization_policies) == strict)


OUTSIDER = authorization_model.Connection(
    peer=None,
    source=authorization_model.ipaddress.ip_address("10.0.0.9"),
    destination=authorization_model.ipaddress.ip_address("10.0.0.1"),
    port=80,
)
