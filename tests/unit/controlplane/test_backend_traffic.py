"""XBackendTrafficPolicies and sessions: conditions, what is refused, and the bytes that the proxy gets."""

from datetime import timedelta
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from google.protobuf import duration_pb2

from controlplane.ambient.model import create
from controlplane.envoy import clusters, layer7
from controlplane.inputs.mesh import MeshContext
from controlplane.routing import sessions
from controlplane.routing.destinations import Policy
from controlplane.routing.ir import Session
from controlplane.routing.route_filters import Unsupported
from controlplane.routing.services import Port, Service
from controlplane.status.policy_ancestors import PolicyAncestors
from meshapi.errors import InvalidResource
from meshapi.resources import base, core
from meshapi.resources.backend_policies import XBackendTrafficPolicy
from meshapi.resources.destination_rule import RetryBudget
from meshapi.resources.gateway_routes import SessionPersistence
from tests.support import kubernetes_objects as objects

Json = dict[str, Any]
WEB = {"group": "", "kind": "Service", "name": "web"}


def policy(name: str = "p", created: str = "2026-01-01T00:00:00Z", **spec: Any) -> XBackendTrafficPolicy:
    metadata = {"name": name, "namespace": "shop", "creationTimestamp": created}
    return base.read(XBackendTrafficPolicy, {"metadata": metadata, "spec": {"targetRefs": [WEB], **spec}})


def conditions(*policies: XBackendTrafficPolicy) -> list[tuple[str, str, str]]:
    """The conditions of the first policy, beside the others."""
    model = create(MeshContext())
    ancestors = PolicyAncestors(layer7.create(model)).lists[1]
    service = base.read(core.Service, objects.service("web", ports=[{"name": "http", "port": 80}]))
    model.inputs.of(core.Service).set(service.key, service)
    for one in policies:
        model.inputs.of(XBackendTrafficPolicy).set(one.key, one)
    model.flush()
    [entry] = ancestors.entries.find(policies[0].key) or ()
    return [(one["type"], one["status"], f"{one['reason']}: {one['message']}") for one in entry["conditions"]]


def test_a_policy_refers_to_nothing_so_it_has_one_condition() -> None:
    [(kind, status, message)] = conditions(policy(sessionPersistence={}))
    assert (kind, status) == ("Accepted", "True")
    assert message.startswith("Accepted: the policy is accepted")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"sessionPersistence": {"sessionName": "a b"}},
            "Invalid: spec.sessionPersistence.sessionName 'a b' is no name",
        ),
        ({"sessionPersistence": {"absoluteTimeout": "1h"}}, "Invalid: spec.sessionPersistence.absoluteTimeout"),
        ({"targetRefs": [{**WEB, "name": "nowhere"}]}, "TargetNotFound: Service shop/nowhere does not exist"),
        ({"targetRefs": [{**WEB, "kind": "Bucket"}]}, "Invalid: /Bucket is no kind of targets here"),
    ],
)
def test_what_cannot_be_done_is_said(spec: Json, message: str) -> None:
    [(_, status, found)] = conditions(policy(**spec))
    assert status == "False"
    assert message in found


def test_the_older_policy_counts() -> None:
    old = policy("old", "2025-01-01T00:00:00Z")
    [(_, status, message)] = conditions(policy(), old)
    assert status == "False"
    assert message.startswith("Conflicted: shop/old is older and counts for Service shop/web instead")
    assert conditions(old, policy())[0][1] == "True"


def test_what_of_the_least_rate_has_no_effect_is_said() -> None:
    [(_, status, message)] = conditions(policy(retryConstraint={"minRetryRate": {"count": 5, "interval": "10s"}}))
    assert status == "True"
    assert "minRetryRate.interval has no effect" in message


@pytest.mark.parametrize(
    "spec",
    [
        {"targetRefs": "x"},
        {"retryConstraint": {"budget": {"percent": 101}}},
        {"retryConstraint": {"budget": {"interval": "soon"}}},
        {"sessionPersistence": {"type": "Magic"}},
        {"sessionPersistence": {"cookieConfig": {"lifetimeType": "Ever"}}},
    ],
)
def test_a_policy_of_the_wrong_types_is_refused(spec: Json) -> None:
    with pytest.raises(InvalidResource, match="XBackendTrafficPolicy shop/p: spec"):
        policy(**spec)


def session(**given: Any) -> Session:
    return sessions.of_persistence(SessionPersistence.model_validate(given), "HTTPRoute/shop/r")


def test_sessions_of_different_rules_do_not_meet() -> None:
    other = sessions.of_persistence(SessionPersistence(), "HTTPRoute/shop/s")
    assert session().name != other.name
    assert session() == session(type="Cookie", cookieConfig={})
    lasting = session(sessionName="s", absoluteTimeout="1h", cookieConfig={"lifetimeType": "Permanent"})
    assert lasting == Session("s", lifetime=timedelta(hours=1))
    assert session(sessionName="x-s", type="Header") == Session("x-s", is_header=True)


@pytest.mark.parametrize(
    "given",
    [
        {"absoluteTimeout": "1h"},
        {"absoluteTimeout": "1h", "type": "Header"},
        {"sessionName": "a;b"},
        {"sessionName": "a\r\nb", "type": "Header"},
        {"sessionName": "ä"},
    ],
)
def test_a_session_that_cannot_be_kept_is_refused(given: Json) -> None:
    with pytest.raises(Unsupported, match="sessionPersistence"):
        session(**given)


def test_the_interval_of_a_retry_budget_is_a_field_that_the_messages_do_not_have() -> None:
    budget = RetryBudget.model_validate({"budgetInterval": "90s", "minRetryConcurrency": 4})
    service = Service("Service", ("shop", "web"), "web.shop.svc.cluster.local")
    cluster = clusters.of_service("x", service, Port(80), "", Policy(retry_budget=budget))
    found = cluster_pb2.Cluster.FromString(cluster.SerializeToString()).circuit_breakers.thresholds[0].retry_budget
    assert found.min_retry_concurrency.value == 4
    assert duration_pb2.Duration(seconds=90).SerializeToString() in found.SerializeToString()
    assert "budget_interval" not in found.DESCRIPTOR.fields_by_name, "the field can be set by its name now"
