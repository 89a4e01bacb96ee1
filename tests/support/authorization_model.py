"""Layer 4 authorization in plain Python, straight from the specification: what the engine is compared with.

Slow and simple on purpose. It shares no code with the engine or the control plane; it reads the wire message only.

    any enforced DENY matches                   refused, by that policy
    no enforced ALLOW policy applies            passes
    any enforced ALLOW matches                  passes, by that policy
    else                                        refused

A policy is OR over rules, a rule AND over clauses, a clause OR over matches, a match AND over its fields; the values of
a field are OR, of a ``not_`` field NOR. Emptiness: a policy without rules never matches, a rule without clauses and a
clause without matches always do, a match without any field never does.

A workload that names a missing policy denies all traffic: what that policy forbids cannot be known.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from meshapi.identity import SpiffeId
from meshapi.proto import authorization_pb2 as pb

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Connection:
    """What policy sees. ``peer`` is ``None`` in plain text."""

    peer: SpiffeId | None
    source: IpAddress
    destination: IpAddress
    port: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """``policies``: any of these may be named as the one that decided; empty where none did."""

    allowed: bool
    policies: frozenset[str]
    dry_run: frozenset[str]


def evaluate(
    policies: dict[str, pb.Authorization], namespace: str, named: Sequence[str], connection: Connection
) -> Verdict:
    """Decide for a connection to a workload of ``namespace`` that names the policies ``named``."""
    applying = {
        key: policy
        for key, policy in policies.items()
        if policy.scope == pb.GLOBAL or (policy.scope == pb.NAMESPACE and policy.namespace == namespace) or key in named
    }
    matching = {key for key, policy in applying.items() if matches(policy, connection)}
    dry_run = frozenset(key for key in matching if applying[key].dry_run)
    unknown = frozenset(named) - policies.keys()
    if unknown:
        return Verdict(False, unknown, dry_run)

    def enforced(action: pb.Action) -> set[str]:
        return {key for key, policy in applying.items() if policy.action == action and not policy.dry_run}

    denying, allows = enforced(pb.DENY) & matching, enforced(pb.ALLOW)
    if denying:
        return Verdict(False, frozenset(denying), dry_run)
    return Verdict(not allows or bool(allows & matching), frozenset(allows & matching), dry_run)


def matches(policy: pb.Authorization, connection: Connection) -> bool:
    """Whether a policy matches, whatever it does then."""
    return any(
        all(not clause.matches or any(_match(one, connection) for one in clause.matches) for clause in rule.clauses)
        for rule in policy.rules
    )


def is_acceptable(policy: pb.Authorization) -> bool:
    """Whether the engine may take the policy: every value of every field means something."""
    found = [match for rule in policy.rules for clause in rule.clauses for match in clause.matches]
    return all(
        all(text.WhichOneof("match_type") for text in _texts(match))
        and all(port < 1 << 16 for port in (*match.destination_ports, *match.not_destination_ports))
        and all(len(one.address) * 8 >= one.length and len(one.address) in {4, 16} for one in _ranges(match))
        for match in found
    )


def _texts(match: pb.Match) -> list[pb.StringMatch]:
    return [*match.namespaces, *match.not_namespaces, *match.principals, *match.not_principals]


def _ranges(match: pb.Match) -> list[pb.Address]:
    return [*match.source_ips, *match.not_source_ips, *match.destination_ips, *match.not_destination_ips]


def _match(match: pb.Match, connection: Connection) -> bool:
    if not match.ListFields():
        return False
    peer = connection.peer

    def text(value: str) -> Callable[[pb.StringMatch], bool]:
        return lambda wanted: peer is not None and _text(wanted, value)

    def account(wanted: pb.ServiceAccountMatch) -> bool:
        # The trust domain does not count.
        return peer is not None and (peer.namespace, peer.service_account) == (wanted.namespace, wanted.serviceAccount)

    namespace, principal = text(peer.namespace if peer else ""), text(peer.principal if peer else "")
    source, destination = _within(connection.source), _within(connection.destination)
    return (
        _field(match.namespaces, match.not_namespaces, namespace)
        and _field(match.principals, match.not_principals, principal)
        and _field(match.service_accounts, match.not_service_accounts, account)
        and _field(match.source_ips, match.not_source_ips, source)
        and _field(match.destination_ips, match.not_destination_ips, destination)
        and _field(match.destination_ports, match.not_destination_ports, lambda port: port == connection.port)
    )


def _field(any_of: Iterable[T], none_of: Iterable[T], test: Callable[[T], bool]) -> bool:
    any_of = list(any_of)
    return (not any_of or any(test(one) for one in any_of)) and not any(test(one) for one in none_of)


def _text(wanted: pb.StringMatch, value: str) -> bool:
    match wanted.WhichOneof("match_type"):
        case "exact":
            return value == wanted.exact
        case "prefix":
            return value.startswith(wanted.prefix)
        case "suffix":
            return value.endswith(wanted.suffix)
        case "presence":
            return value != ""
    raise AssertionError("such a policy is not acceptable")


def _within(address: IpAddress) -> Callable[[pb.Address], bool]:
    return lambda wanted: plain(address) in _network(wanted)


def _network(wanted: pb.Address) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    base = ipaddress.ip_address(wanted.address)
    # An IPv4 address in IPv6's clothes is that IPv4 address, on both sides of a comparison.
    if (inner := plain(base)).version < base.version and wanted.length >= 96:
        return ipaddress.ip_network((inner, wanted.length - 96), strict=False)
    return ipaddress.ip_network((base, wanted.length), strict=False)


def plain(address: IpAddress) -> IpAddress:
    """An address, unmapped where it is IPv4 in IPv6."""
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
