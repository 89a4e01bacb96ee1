"""AuthorizationPolicy and PeerAuthentication."""

from collections.abc import Iterator, Mapping

from meshapi import names
from meshapi.resources import base, core, networking, security
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.world import World


def check(world: World) -> Iterator[Finding]:
    """Return what is wrong with the policies."""
    for policy in world.all(security.AuthorizationPolicy):
        yield from world.unknown(policy)
        yield from _policy(world, policy)
    for peer in world.all(security.PeerAuthentication):
        yield from world.unknown(peer)
        yield from _peer(world, peer)
    yield from _shadowed(world)


def _policy(world: World, policy: security.AuthorizationPolicy) -> Iterator[Finding]:
    spec = policy.spec
    if spec.target_ref is not None or spec.target_refs:
        return  # a waypoint's
    if spec.action not in (security.Action.ALLOW, security.Action.DENY):
        text = f"{spec.action} is not enforced without a waypoint; bind the policy to one by spec.targetRefs"
        yield world.finding(Code.ACTION, policy, "spec.action", text)
        return
    denies = spec.action is security.Action.DENY
    if policy.metadata.annotations.get(names.DRY_RUN_ANNOTATION, "").lower() == "true":
        text = "the policy decides nothing; remove the annotation to put it in force"
        yield world.finding(Code.DRY_RUN, policy, f"metadata.annotations[{names.DRY_RUN_ANNOTATION}]", text)
    if not spec.rules and denies:
        yield world.finding(
            Code.DENIES_NOTHING, policy, "spec.rules", "without rules nothing is denied; add {} for all"
        )
    elif not spec.rules:
        text = "without rules nothing is allowed: every connection to the chosen workloads is refused"
        yield world.finding(Code.ALLOWS_NOTHING, policy, "spec.rules", text)
    for index, rule in enumerate(spec.rules):
        for path in _layer_7(rule, f"spec.rules[{index}]"):
            effect = (
                "is ignored in this DENY rule, which may then deny nothing"
                if denies
                else "makes the rule allow nothing"
            )
            text = f"{effect} without a waypoint; bind the policy to one by spec.targetRefs"
            yield world.finding(Code.LAYER_7, policy, path, text)
    yield from _chosen(world, policy, spec.selector.match_labels if spec.selector else {})


def _peer(world: World, peer: security.PeerAuthentication) -> Iterator[Finding]:
    spec = peer.spec
    selector = spec.selector.match_labels if spec.selector else {}
    if spec.port_level_mtls and not selector:
        text = "is ignored without a selector; give spec.selector.matchLabels"
        yield world.finding(Code.PORTS_WITHOUT_SELECTOR, peer, "spec.portLevelMtls", text)
    if selector and peer.metadata.namespace == world.root_namespace:
        text = (
            f"chooses nothing in the root namespace {world.root_namespace}; write the object into the pods' namespace"
        )
        yield world.finding(Code.ROOT_SELECTOR, peer, "spec.selector", text)
        return
    modes = {"spec.mtls.mode": spec.mtls.mode} | {
        f"spec.portLevelMtls[{port}].mode": tls.mode for port, tls in spec.port_level_mtls.items()
    }
    for path, mode in modes.items():
        if mode is security.MtlsMode.DISABLE:
            text = "is taken for PERMISSIVE: calls between pods of the mesh stay encrypted; write PERMISSIVE"
            yield world.finding(Code.MODE_DISABLE, peer, path, text)
    yield from _chosen(world, peer, selector)


def _shadowed(world: World) -> Iterator[Finding]:
    """Of the objects without selector in a namespace, and of those with the same selector, the oldest counts."""
    by_scope: dict[tuple[str, tuple[tuple[str, str], ...]], list[security.PeerAuthentication]] = {}
    for peer in world.all(security.PeerAuthentication):
        selector = peer.spec.selector.match_labels if peer.spec.selector else {}
        by_scope.setdefault((peer.metadata.namespace, tuple(sorted(selector.items()))), []).append(peer)
    for found in by_scope.values():
        oldest, *rest = sorted(found, key=lambda peer: (peer.metadata.creation_timestamp or "9", peer.key))
        for peer in rest:
            text = f"PeerAuthentication {'/'.join(oldest.key)} is older and counts for the same workloads; remove one"
            yield world.finding(Code.SHADOWED, peer, "spec.selector", text)


def _chosen(world: World, item: base.Object, selector: Mapping[str, str]) -> Iterator[Finding]:
    """Say when a selector chooses nothing, or only what the mesh does not reach."""
    if not world.knows_pods or not selector:
        return
    namespace = None if item.metadata.namespace == world.root_namespace else item.metadata.namespace
    pods = [pod for pod in world.all(core.Pod, namespace) if chooses(selector, pod.metadata.labels)]
    others = [one for one in world.all(networking.WorkloadEntry, namespace) if chooses(selector, one.spec.labels)]
    path = "spec.selector.matchLabels"
    shown = ",".join(f"{name}={value}" for name, value in sorted(selector.items()))
    if not pods and not others:
        yield world.finding(
            Code.CHOOSES_NOTHING, item, path, f"{shown} chooses no workload; check labels and namespace"
        )
    outside = [pod.metadata.name for pod in pods if not world.is_enrolled(pod)]
    if pods and len(outside) == len(pods):
        text = (
            f"{shown} chooses only pods outside the mesh ({', '.join(sorted(outside)[:3])}); nothing enforces it there"
        )
        yield world.finding(Code.NOT_ENFORCED, item, path, text)


def chooses(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether labels have every pair of a selector."""
    return selector.items() <= labels.items()


def _layer_7(rule: security.Rule, path: str) -> Iterator[str]:
    for index, one in enumerate(rule.from_):
        yield from _given(one.source, security.LAYER_7_SOURCE, f"{path}.from[{index}].source")
    for index, to in enumerate(rule.to):
        yield from _given(to.operation, security.LAYER_7_OPERATION, f"{path}.to[{index}].operation")
    for index, when in enumerate(rule.when):
        if when.key not in security.LAYER_4_KEYS:
            yield f"{path}.when[{index}].key {when.key}"


def _given(model: base.LenientModel, fields: tuple[str, ...], path: str) -> Iterator[str]:
    for name in fields:
        if getattr(model, name):
            yield f"{path}.{type(model).model_fields[name].alias}"
