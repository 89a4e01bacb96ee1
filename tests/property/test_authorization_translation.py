"""Translated policies have the same verdicts as their objects: attachment, translation, mutual TLS."""

from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from controlplane.ambient.model import create
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.proto import authorization_pb2 as pb
from meshapi.proto import workload_pb2
from meshapi.resources import base, core, security
from tests.property import manifests, strategies
from tests.support import authorization_model, istio_policy_model
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put

Json = dict[str, Any]


def resources(policies: list[Json], peers: list[Json], pod: Json) -> tuple[workload_pb2.Workload, dict[str, Any]]:
    """The resources that a proxy gets."""
    model = create(MeshContext(root_namespace=manifests.ROOT))
    for item in policies:
        put(model, base.read(security.AuthorizationPolicy, item))
    for item in peers:
        put(model, base.read(security.PeerAuthentication, item))
    put(model, base.read(core.Pod, pod))
    model.flush()
    [workload] = model.all(names.ADDRESS_TYPE).values()
    found = model.all(names.AUTHORIZATION_TYPE)
    authorizations = {name: pb.Authorization.FromString(item.body) for name, item in found.items()}
    return workload_pb2.Address.FromString(workload.body).workload, authorizations


@settings(max_examples=400, deadline=None)
@given(
    policies=st.tuples(manifests.policies("a"), manifests.policies("b")) | st.tuples(manifests.policies("c")),
    peers=st.tuples(manifests.peers("a"), manifests.peers("b")) | st.just(()),
    namespace=st.sampled_from(manifests.NAMESPACES),
    labels=st.sampled_from(manifests.LABELS),
    connections=st.lists(strategies.connections, min_size=1, max_size=6),
)
def test_translated_policies_decide_as_the_objects_say(
    policies: tuple[Json, ...],
    peers: tuple[Json, ...],
    namespace: str,
    labels: Json,
    connections: list[authorization_model.Connection],
) -> None:
    workload, authorizations = resources(
        list(policies), list(peers), objects.pod("web", namespace, labels=labels, captured=True)
    )
    for connection in connections:
        wanted = istio_policy_model.passes(
            policies, peers, root=manifests.ROOT, namespace=namespace, labels=labels, to=connection
        )
        found = authorization_model.evaluate(
            authorizations, namespace, list(workload.authorization_policies), connection
        )
        assert found.allowed is wanted, (connection, found, list(authorizations))
        event(f"passes: {wanted}, policies apply: {bool(authorizations)}")


def test_policies_of_other_namespaces_are_not_attached() -> None:
    """A tenant's policy decides about its own namespace only."""
    hostile = [
        objects.policy("deny", "dev", action="DENY", rules=[{}]),
        objects.policy("deny-selected", "dev", action="DENY", rules=[{}], selector={"matchLabels": {"app": "web"}}),
    ]
    workload, authorizations = resources(hostile, [], objects.pod("web", "shop", labels={"app": "web"}, captured=True))
    assert list(workload.authorization_policies) == []
    assert {policy.scope for policy in authorizations.values()} == {pb.NAMESPACE, pb.WORKLOAD_SELECTOR}
