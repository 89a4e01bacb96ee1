"""From AuthorizationPolicy to ``istio.security.Authorization``, for layer 4.

Facts: Istio's ``ambient/authorization.go``.

What layer 4 cannot decide (requests, headers, tokens):

*   in an ALLOW rule: the whole rule goes, the policy stays and may so allow nothing (fails closed);
*   in a DENY rule: only that attribute goes, so the rule denies more than it says. An alternative without any attribute
    left denies every connection (fails closed, too); in Istio's ztunnel it denies none, so the rule has no effect.

Every case is reported in ``Translation.problems``; a policy for a waypoint has ``targetRefs`` (``unbound`` has those
whose service uses none).

Trust domains count as such an attribute here. Istio drops them without a word, which makes an ALLOW rule wider than
written; refusing the rule is the safe reading.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from controlplane.ambient import trust_domains
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.proto import authorization_pb2 as pb
from meshapi.resources import base, security

_OF_SERVICES: Final = frozenset({"ports", "not_ports", security.PORT_KEY, "destination.ip"})
"""What of a policy for a service is about the service's own address and ports."""
ModelT = TypeVar("ModelT", bound=base.LenientModel)


@dataclass(slots=True)
class Translation:
    """A policy as proxies get it, and what was lost on the way.

    Attributes:
        policy: the result; ``None`` when layer 4 does not take the policy at all.
        problems: one sentence for each attribute or rule that was left out, with its path.
    """

    policy: pb.Authorization | None
    problems: list[str] = field(default_factory=list)


def is_sent(policy: security.AuthorizationPolicy, mesh: MeshContext) -> bool:
    """Return whether layer 4 takes the policy: ALLOW or DENY, bound to no gateway or service, and not a dry run."""
    spec = policy.spec
    if spec.target_ref is not None or spec.target_refs:
        return False
    return _is_for_layer_4(policy, mesh)


def _is_for_layer_4(policy: security.AuthorizationPolicy, mesh: MeshContext) -> bool:
    spec = policy.spec
    if spec.action not in {security.Action.ALLOW, security.Action.DENY}:
        return False
    return mesh.sends_dry_run or not is_dry_run(policy)


def selector(policy: security.AuthorizationPolicy) -> dict[str, str]:
    """Return the labels that pods must have; empty for a policy of a whole namespace."""
    return policy.spec.selector.match_labels if policy.spec.selector else {}


def translate(policy: security.AuthorizationPolicy, mesh: MeshContext) -> Translation:
    """Return the policy for layer 4."""
    if not is_sent(policy, mesh):
        return Translation(None)
    return _translated(policy, mesh, policy.metadata.name, _scope(policy, mesh), frozenset())


def translate_for(service: str, policy: security.AuthorizationPolicy, mesh: MeshContext) -> Translation:
    """Return the policy for the pods of a service that it names in ``targetRefs``.

    Its name has an ``@``, which no object's name has. Ports and destinations are the service's: layer 4 sees the pod's.
    """
    if not _is_for_layer_4(policy, mesh):
        return Translation(None)
    name = f"{policy.metadata.name}@{service}"
    return _translated(policy, mesh, name, pb.WORKLOAD_SELECTOR, _OF_SERVICES)


def _translated(
    policy: security.AuthorizationPolicy, mesh: MeshContext, name: str, scope: pb.Scope, unseen: frozenset[str]
) -> Translation:
    """Return the policy; ``unseen``: operations and keys of conditions that layer 4 cannot decide in it."""
    namespace = policy.metadata.namespace
    denies = policy.spec.action is security.Action.DENY
    result = Translation(
        pb.Authorization(
            name=name,
            namespace=namespace,
            scope=scope,
            action=pb.DENY if denies else pb.ALLOW,
            dry_run=is_dry_run(policy),
        )
    )
    assert result.policy is not None
    for index, rule in enumerate(policy.spec.rules):
        path = f"spec.rules[{index}]"
        lost: list[str] = []
        seen = _without(_with_aliases(rule, mesh), unseen, path, lost)
        clauses = _clauses(seen, namespace, path, lost)
        result.problems += [f"{item} needs a waypoint (layer 7)" for item in lost]
        if lost and not denies:
            result.problems.append(f"{path} allows nothing without a waypoint")
            continue
        if lost:
            clauses = [clause for clause in clauses if all(match.ByteSize() for match in clause.matches)]
            effect = "denies by its other attributes alone" if clauses else "denies every connection"
            result.problems.append(f"{path} {effect} without a waypoint")
        result.policy.rules.append(pb.Rule(clauses=clauses))
    return result


def _without(rule: security.Rule, unseen: frozenset[str], path: str, lost: list[str]) -> security.Rule:
    """Return a rule without what layer 4 cannot decide in it; ``lost`` gets the paths."""
    if not unseen:
        return rule
    operations = []
    for index, item in enumerate(rule.to):
        given = [name for name in ("ports", "not_ports") if name in unseen and getattr(item.operation, name)]
        lost += _given(item.operation, given, f"{path}.to[{index}].operation")
        operations.append(
            item.model_copy(update={"operation": item.operation.model_copy(update=dict.fromkeys(given, ()))})
        )
    lost += [f"{path}.when[{index}].key {item.key}" for index, item in enumerate(rule.when) if item.key in unseen]
    conditions = tuple(item for item in rule.when if item.key not in unseen)
    return rule.model_copy(update={"to": tuple(operations), "when": conditions})


def _scope(policy: security.AuthorizationPolicy, mesh: MeshContext) -> pb.Scope:
    if selector(policy):
        return pb.WORKLOAD_SELECTOR
    return pb.GLOBAL if policy.metadata.namespace == mesh.root_namespace else pb.NAMESPACE


def is_dry_run(policy: security.AuthorizationPolicy) -> bool:
    """Return whether the policy is a dry run: evaluated, logged and counted, but not enforced."""
    return policy.metadata.annotations.get(names.DRY_RUN_ANNOTATION, "").lower() == "true"


def _with_aliases(rule: security.Rule, mesh: MeshContext) -> security.Rule:
    """Return the rule with its principals in every trust domain that they hold in."""
    if not mesh.trust_domain_aliases and mesh.trust_domain == names.DEFAULT_TRUST_DOMAIN:
        return rule
    sources = [
        item.model_copy(update={"source": _expanded(item.source, ("principals", "not_principals"), mesh)})
        for item in rule.from_
    ]
    conditions = [
        _expanded(item, ("values", "not_values"), mesh) if item.key == security.PRINCIPAL_KEY else item
        for item in rule.when
    ]
    return rule.model_copy(update={"from_": tuple(sources), "when": tuple(conditions)})


def _expanded(model: ModelT, fields: Sequence[str], mesh: MeshContext) -> ModelT:
    expanded = {name: tuple(trust_domains.expand(getattr(model, name), mesh)) for name in fields}
    return model.model_copy(update=expanded)


def _clauses(rule: security.Rule, namespace: str, path: str, lost: list[str]) -> list[pb.Clause]:
    """One clause for all ``to``, one for all ``from``, one for each ``when``; within a clause any match will do."""
    clauses = []
    if rule.to:
        matches = [
            _operation(item.operation, f"{path}.to[{index}].operation", lost) for index, item in enumerate(rule.to)
        ]
        clauses.append(pb.Clause(matches=matches))
    if rule.from_:
        matches = [
            _source(item.source, namespace, f"{path}.from[{index}].source", lost)
            for index, item in enumerate(rule.from_)
        ]
        clauses.append(pb.Clause(matches=matches))
    clauses += [
        pb.Clause(matches=[_condition(item, namespace, f"{path}.when[{index}].key {item.key}", lost)])
        for index, item in enumerate(rule.when)
    ]
    return clauses


def _operation(operation: security.Operation, path: str, lost: list[str]) -> pb.Match:
    lost += _given(operation, security.LAYER_7_OPERATION, path)
    return pb.Match(
        destination_ports=[int(port) for port in operation.ports],
        not_destination_ports=[int(port) for port in operation.not_ports],
    )


def _source(source: security.Source, namespace: str, path: str, lost: list[str]) -> pb.Match:
    lost += _given(source, security.LAYER_7_SOURCE, path)
    return pb.Match(
        principals=_strings(source.principals),
        not_principals=_strings(source.not_principals),
        namespaces=_strings(source.namespaces),
        not_namespaces=_strings(source.not_namespaces),
        service_accounts=_accounts(source.service_accounts, namespace),
        not_service_accounts=_accounts(source.not_service_accounts, namespace),
        source_ips=_addresses(source.ip_blocks),
        not_source_ips=_addresses(source.not_ip_blocks),
    )


def _condition(condition: security.Condition, namespace: str, path: str, lost: list[str]) -> pb.Match:
    values, not_values = condition.values, condition.not_values
    result = pb.Match()
    match condition.key:
        case "source.ip":
            result = pb.Match(source_ips=_addresses(values), not_source_ips=_addresses(not_values))
        case "destination.ip":
            result = pb.Match(destination_ips=_addresses(values), not_destination_ips=_addresses(not_values))
        case "source.namespace":
            result = pb.Match(namespaces=_strings(values), not_namespaces=_strings(not_values))
        case security.PRINCIPAL_KEY:
            result = pb.Match(principals=_strings(values), not_principals=_strings(not_values))
        case "source.serviceAccount":
            accounts, not_accounts = _accounts(values, namespace), _accounts(not_values, namespace)
            result = pb.Match(service_accounts=accounts, not_service_accounts=not_accounts)
        case security.PORT_KEY:
            ports, not_ports = [int(value) for value in values], [int(value) for value in not_values]
            result = pb.Match(destination_ports=ports, not_destination_ports=not_ports)
        case _:
            lost.append(path)
    return result


def _given(model: base.LenientModel, fields: Iterable[str], path: str) -> list[str]:
    declared = type(model).model_fields
    return [f"{path}.{declared[name].alias}" for name in fields if getattr(model, name)]


def _strings(values: Sequence[str]) -> list[pb.StringMatch]:
    return [_string(value) for value in values]


def _string(value: str) -> pb.StringMatch:
    if value == "*":
        match = pb.StringMatch()
        match.presence.SetInParent()
        return match
    if value.startswith("*"):
        return pb.StringMatch(suffix=value[1:])
    if value.endswith("*"):
        return pb.StringMatch(prefix=value[:-1])
    return pb.StringMatch(exact=value)


def _accounts(values: Sequence[str], namespace: str) -> list[pb.ServiceAccountMatch]:
    parts = [value.rpartition("/") for value in values]
    return [pb.ServiceAccountMatch(namespace=given or namespace, serviceAccount=name) for given, _, name in parts]


def _addresses(blocks: Sequence[str]) -> list[pb.Address]:
    networks = [ipaddress.ip_network(block, strict=False) for block in blocks]
    return [pb.Address(address=network.network_address.packed, length=network.prefixlen) for network in networks]
