"""Kubernetes NetworkPolicies that select enrolled pods.

Between enrolled pods every connection arrives at port 15008, whatever port the application dials. A network plugin sees
that port only. So a rule that names the application's port alone blocks the mesh, and one that opens 15008 no longer
restricts ports: a peer that reaches 15008 reaches every port, unless an AuthorizationPolicy says otherwise. Source:
Istio's documentation, "Ambient and Kubernetes NetworkPolicy".
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from meshapi import names
from meshapi.resources import core, security
from meshapi.resources.network_policy import IngressRule, NetworkPolicy, PolicyPeer, PolicyPort, Rule
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.policies import chooses
from meshctl.analysis.world import World

_DNS: Final = 53


def check(world: World) -> Iterator[Finding]:
    """Return which rules block the mesh, and which lose their ports to it."""
    if not world.knows_pods:
        return
    enrolled = [pod for pod in world.all(core.Pod) if world.is_enrolled(pod)]
    policies = list(world.all(NetworkPolicy))
    for policy in policies:
        selected = [pod for pod in enrolled if _selects(policy, pod)]
        if selected:
            yield from _ingress(world, policy, selected, policies)
            yield from _egress(world, policy, selected, policies)


def _selects(policy: NetworkPolicy, pod: core.Pod) -> bool:
    return policy.metadata.namespace == pod.metadata.namespace and policy.spec.pod_selector.matches(pod.metadata.labels)


def _ingress(
    world: World, policy: NetworkPolicy, selected: Sequence[core.Pod], policies: Iterable[NetworkPolicy]
) -> Iterator[Finding]:
    if policy.spec.policy_types and "Ingress" not in policy.spec.policy_types:
        return
    allowing = [rule for one in policies if all(_selects(one, pod) for pod in selected) for rule in one.spec.ingress]
    for index, rule in enumerate(policy.spec.ingress):
        path = f"spec.ingress[{index}].ports"
        if not rule.covers(names.HBONE_PORT):
            if _reaches_enrolled(world, policy, rule) and not _opened_elsewhere(rule, allowing):
                yield world.finding(Code.NETWORK_POLICY_BLOCKS, policy, path, _blocked(len(selected), "from"))
        elif rule.ports and not all(_has_policy(world, pod) for pod in selected):
            yield world.finding(Code.NETWORK_POLICY_PORTS, policy, path, _unrestricted(rule))


def _egress(
    world: World, policy: NetworkPolicy, selected: Sequence[core.Pod], policies: Iterable[NetworkPolicy]
) -> Iterator[Finding]:
    if policy.spec.policy_types and "Egress" not in policy.spec.policy_types:
        return
    allowing = [rule for one in policies if all(_selects(one, pod) for pod in selected) for rule in one.spec.egress]
    for index, rule in enumerate(policy.spec.egress):
        if rule.covers(names.HBONE_PORT) or all(_is_dns(port) for port in rule.ports):
            continue
        if _reaches_enrolled(world, policy, rule) and not _opened_elsewhere(rule, allowing):
            path = f"spec.egress[{index}].ports"
            yield world.finding(Code.NETWORK_POLICY_BLOCKS, policy, path, _blocked(len(selected), "to"))


def _is_dns(port: PolicyPort) -> bool:
    return port.port == _DNS


def _opened_elsewhere(rule: Rule, allowing: Iterable[Rule]) -> bool:
    """Say whether another rule for the same pods opens 15008 for everybody or for the same peers."""
    return any(one.covers(names.HBONE_PORT) and (not one.peers or one.peers == rule.peers) for one in allowing)


def _reaches_enrolled(world: World, policy: NetworkPolicy, rule: Rule) -> bool:
    """Say whether one of a rule's peers is an enrolled pod: others are reached without the mesh."""
    if not rule.peers:
        return True
    return any(
        _is_peer(world, policy, peer, pod) for pod in world.all(core.Pod) if world.is_enrolled(pod)
        for peer in rule.peers
    )  # fmt: skip


def _is_peer(world: World, policy: NetworkPolicy, peer: PolicyPeer, pod: core.Pod) -> bool:
    if peer.ip_block is not None:
        return False
    if peer.namespace_selector is None:
        here = pod.metadata.namespace == policy.metadata.namespace
    else:
        here = peer.namespace_selector.matches(world.namespace_labels(pod.metadata.namespace))
    return here and (peer.pod_selector is None or peer.pod_selector.matches(pod.metadata.labels))


def _has_policy(world: World, pod: core.Pod) -> bool:
    for policy in world.all(security.AuthorizationPolicy):
        if policy.metadata.namespace not in (pod.metadata.namespace, world.root_namespace):
            continue
        selector = policy.spec.selector.match_labels if policy.spec.selector else {}
        if chooses(selector, pod.metadata.labels):
            return True
    return False


def _blocked(pods: int, direction: str) -> str:
    which = "1 enrolled pod" if pods == 1 else f"{pods} enrolled pods"
    return (
        f"mesh traffic {direction} these peers uses TCP {names.HBONE_PORT}, which this rule denies to {which}; "
        f"add port {names.HBONE_PORT} to it"
    )


def _unrestricted(rule: Rule) -> str:
    peers = "these peers" if isinstance(rule, IngressRule) and rule.peers else "everybody"
    return (
        f"through {names.HBONE_PORT} {peers} can reach every port of the selected pods; "
        "restrict ports with an AuthorizationPolicy"
    )
