"""What Istio's policy objects mean at layer 4, read from the objects themselves: what translation is compared with.

Plain Python over manifests (dictionaries as in YAML), one workload and one connection at a time; no wire messages. What
layer 4 cannot decide is missing on purpose, and fails closed: an ALLOW rule with any such attribute allows nothing, a
DENY rule loses that attribute, and an alternative of which nothing is left matches everything.
"""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.authorization_model import Connection, IpAddress, plain

Json = dict[str, Any]

_SOURCE = ("principals", "namespaces", "serviceAccounts", "ipBlocks")
_CONDITIONS = (
    "source.ip", "source.namespace", "source.principal", "source.serviceAccount", "destination.ip", "destination.port",
)  # fmt: skip


def passes(
    policies: Iterable[Json], peers: Iterable[Json], *, root: str, namespace: str, labels: Json, to: Connection
) -> bool:
    """Whether a connection to a workload gets through."""
    if to.peer is None and _demands_identity(list(peers), root, namespace, labels, to.port):
        return False
    applying = [policy for policy in policies if _applies(policy, root, namespace, labels)]
    denies = [policy for policy in applying if _action(policy) == "DENY"]
    allows = [policy for policy in applying if _action(policy) == "ALLOW"]
    if any(_policy_matches(policy, to) for policy in denies):
        return False
    return not allows or any(_policy_matches(policy, to) for policy in allows)


def _action(policy: Json) -> str:
    return str(policy["spec"].get("action", "ALLOW"))


def _selects(item: Json, labels: Json) -> bool:
    return _selector(item).items() <= labels.items()


def _selector(item: Json) -> Json:
    return dict(item["spec"].get("selector", {}).get("matchLabels", {}))


def _applies(policy: Json, root: str, namespace: str, labels: Json) -> bool:
    spec, metadata = policy["spec"], policy["metadata"]
    return (
        "targetRef" not in spec
        and not spec.get("targetRefs")
        and metadata.get("annotations", {}).get("istio.io/dry-run") != "true"
        and metadata["namespace"] in {root, namespace}
        and _selects(policy, labels)
    )


def _policy_matches(policy: Json, to: Connection) -> bool:
    return any(_rule_matches(rule, policy, to) for rule in policy["spec"].get("rules", []))


def _rule_matches(rule: Json, policy: Json, to: Connection) -> bool:
    sources = [item["source"] for item in rule.get("from", [])]
    operations = [item["operation"] for item in rule.get("to", [])]
    conditions = rule.get("when", [])
    known_source = {*_SOURCE, *map(_negated, _SOURCE)}
    lost = (
        any(source.keys() - known_source for source in sources)
        or any(operation.keys() - {"ports", "notPorts"} for operation in operations)
        or any(condition["key"] not in _CONDITIONS for condition in conditions)
    )
    if lost and _action(policy) == "ALLOW":
        return False
    home = policy["metadata"]["namespace"]
    return (
        (not sources or any(_source_matches(source, home, to) for source in sources))
        and (not operations or any(_fields_match({"ports": _port}, operation, home, to) for operation in operations))
        and all(_condition_matches(condition, home, to) for condition in conditions)
    )


def _source_matches(source: Json, home: str, to: Connection) -> bool:
    tests = {"principals": _principal, "namespaces": _namespace, "serviceAccounts": _account, "ipBlocks": _source_ip}
    return _fields_match(tests, source, home, to)


def _condition_matches(condition: Json, home: str, to: Connection) -> bool:
    test = {
        "source.ip": _source_ip, "source.namespace": _namespace, "source.principal": _principal,
        "source.serviceAccount": _account, "destination.ip": _destination_ip, "destination.port": _port,
    }.get(condition["key"])  # fmt: skip
    return test is None or _fields_match({"values": test}, condition, home, to)


def _fields_match(
    tests: dict[str, Callable[[str, str, Connection], bool]], given: Json, home: str, to: Connection
) -> bool:
    """All fields that layer 4 knows hold; without any, everything does: the rule is a DENY rule then."""
    held = []
    for name, test in tests.items():
        if values := given.get(name):
            held.append(any(test(value, home, to) for value in values))
        if values := given.get(_negated(name)):
            held.append(not any(test(value, home, to) for value in values))
    return all(held)


def _negated(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


def _text(pattern: str, value: str) -> bool:
    if pattern == "*":
        return value != ""
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return value == pattern


def _principal(value: str, _: str, to: Connection) -> bool:
    return to.peer is not None and _text(value, str(to.peer).removeprefix("spiffe://"))


def _namespace(value: str, _: str, to: Connection) -> bool:
    return to.peer is not None and _text(value, to.peer.namespace)


def _account(value: str, home: str, to: Connection) -> bool:
    wanted = value if "/" in value else f"{home}/{value}"
    return to.peer is not None and wanted == f"{to.peer.namespace}/{to.peer.service_account}"


def _ip(block: str, address: IpAddress) -> bool:
    network, mapped = ipaddress.ip_network(block, strict=False), ipaddress.ip_network("::ffff:0:0/96")
    if network.version == 6 and network.subnet_of(mapped):
        inner = plain(network.network_address)
        network = ipaddress.ip_network((inner, network.prefixlen - 96), strict=False)
    return plain(address) in network


def _source_ip(value: str, _: str, to: Connection) -> bool:
    return _ip(value, to.source)


def _destination_ip(value: str, _: str, to: Connection) -> bool:
    return _ip(value, to.destination)


def _port(value: str, _: str, to: Connection) -> bool:
    return to.port == int(value)


def _demands_identity(peers: list[Json], root: str, namespace: str, labels: Json, port: int) -> bool:
    def oldest(chosen: list[Json]) -> Json:
        chosen = sorted(chosen, key=lambda peer: (peer["metadata"]["creationTimestamp"], peer["metadata"]["name"]))
        return dict(chosen[0]["spec"]) if chosen else {}

    def within(where: str, *, selected: bool) -> list[Json]:
        local = [peer for peer in peers if peer["metadata"]["namespace"] == where]
        return [peer for peer in local if bool(_selector(peer)) is selected and _selects(peer, labels)]

    levels = [oldest(within(root, selected=False))]
    workload: Json = {}
    if namespace != root:
        workload = oldest(within(namespace, selected=True))
        levels += [oldest(within(namespace, selected=False)), workload]
    modes = [level.get("mtls", {}).get("mode", "UNSET") for level in levels]
    modes.append(workload.get("portLevelMtls", {}).get(str(port), {}).get("mode", "UNSET"))
    return next((mode for mode in reversed(modes) if mode != "UNSET"), "PERMISSIVE") == "STRICT"
