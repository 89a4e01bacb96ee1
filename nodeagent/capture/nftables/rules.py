"""A plan in nftables' language. Pure; the golden files under ``tests/golden`` show what comes out.

The rules are those of Istio's ambient mode (marks, ports, order), with two differences. Only the first packet of a
connection (SYN) is redirected: a connection that is older than the rules has no conntrack entry, its next packet would
be taken for a new one and be torn away from its peer. And everything is in one table, which is replaced in one
transaction.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from meshapi import names
from nodeagent.capture.plan import Mode, Network, PodPlan

FAMILY: Final = "inet"
POD_TABLE: Final = "culvert"
HOST_TABLE: Final = "culvert-probes"

_OURS = f"meta mark & {names.TUNNEL_MARK_MASK:#x} == {names.TUNNEL_MARK:#x}"
_NOT_OURS = f"meta mark & {names.TUNNEL_MARK_MASK:#x} != {names.TUNNEL_MARK:#x}"
_REPLY = f"{names.REPLY_CONNMARK_MASK:#x} == {names.REPLY_CONNMARK:#x}"
_SET_REPLY = f"{0xFFFFFFFF ^ names.REPLY_CONNMARK_MASK:#x} | {names.REPLY_CONNMARK:#x}"
_PASS = f"ct mark set ct mark | {names.PASSED_MARK:#x}"
_SYN = "tcp flags & (fin | syn | rst | ack) == syn"
_DNS = 53


def pod_rules(plan: PodPlan, *, fresh: bool = False) -> str:
    """Return the transaction that makes a pod's table as planned.

    Args:
        plan: the desired state.
        fresh: there is no table yet. Deleting, even nothing, makes the kernel wait for all its readers: some ten
            milliseconds that a new pod need not wait too.
    """
    replace = "" if fresh else remove(POD_TABLE)
    if plan.mode is Mode.NONE:
        return replace
    capture = plan.mode is Mode.CAPTURE
    chains = [
        _chain(
            "mangle_prerouting",
            "type filter hook prerouting priority -150",
            [f"{_OURS} ct mark set ct mark & {_SET_REPLY}"],
        ),
        _chain("mangle_output", "type route hook output priority -150", [f"ct mark & {_REPLY} meta mark set ct mark"]),
        _chain("nat_prerouting", "type nat hook prerouting priority -100", _inbound(plan) if capture else []),
        _chain("nat_output", "type nat hook output priority -100", _outbound(plan) if capture else []),
    ]
    if capture:
        seen = f"meta mark set meta mark | {names.PASSED_MARK:#x}"
        rules = [f"{_OURS} {seen} accept", f'oifname != "lo" ct mark & {names.PASSED_MARK:#x} != 0 {seen}']
        chains.append(_chain("mangle_postrouting", "type filter hook postrouting priority -150", rules))
    if capture and plan.dns:
        zone = f"ct zone set {names.DNS_CONNTRACK_ZONE}"
        raw = [
            ("output", f"udp dport {_DNS} {_OURS} {zone}"),
            ("prerouting", f"udp sport {_DNS} {_NOT_OURS} {zone}"),
        ]
        chains += [_chain(f"raw_{hook}", f"type filter hook {hook} priority -300", [rule]) for hook, rule in raw]
    return f"{replace}table {FAMILY} {POD_TABLE} {{\n" + "".join(chains) + "}\n"


def _inbound(plan: PodPlan) -> list[str]:
    rules = []
    for name in plan.virtual_interfaces:
        rules += [f'iifname "{name}" {_SYN} redirect to :{names.OUTBOUND_PORT}', f'iifname "{name}" {_PASS} return']
    # The application answers to what is not redirected, and to the rest the tunnel, or the kernel for it.
    rules.append(f'iifname != "lo" {_NOT_OURS} {_SYN} {_PASS}')
    if plan.inbound is None:
        return rules
    rules += [f'iifname "{name}" {_PASS} return' for name in plan.excluded_interfaces]
    rules += [
        f"ip saddr {names.PROBE_SOURCE_V4} meta l4proto tcp {_PASS} accept",
        f"ip6 saddr {names.PROBE_SOURCE_V6} meta l4proto tcp {_PASS} accept",
    ]
    redirect = f"{_NOT_OURS} {_SYN} redirect to :{names.INBOUND_PLAINTEXT_PORT}"
    ports = f"tcp dport != {names.HBONE_PORT}"
    if plan.inbound.only is not None:
        if not plan.inbound.only:
            return rules
        ports += f" tcp dport {_any(plan.inbound.only)}"
    elif plan.inbound.never:
        rules.append(f"tcp dport {_any(plan.inbound.never)} {_PASS} return")
    return [*rules, f"ip daddr != 127.0.0.1 {ports} {redirect}", f"ip6 daddr != ::1 {ports} {redirect}"]


def _outbound(plan: PodPlan) -> list[str]:
    outbound = plan.outbound
    rules = [f'oifname "{name}" {_PASS} return' for name in plan.excluded_interfaces]
    rules += [
        f"ip daddr {names.PROBE_SOURCE_V4} meta l4proto tcp {_PASS} accept",
        f"ip6 daddr {names.PROBE_SOURCE_V6} meta l4proto tcp {_PASS} accept",
    ]
    if outbound.never_ports:
        rules.append(f"meta l4proto {{ tcp, udp }} th dport {_any(outbound.never_ports)} {_PASS} return")
    if plan.dns:
        redirect = f"redirect to :{names.DNS_PORT}"
        rules += [
            f'oifname != "lo" udp dport {_DNS} {_NOT_OURS} {redirect}',
            f"ip daddr != 127.0.0.1 tcp dport {_DNS} {_NOT_OURS} {_SYN} {redirect}",
            f"ip6 daddr != ::1 tcp dport {_DNS} {_NOT_OURS} {_SYN} {redirect}",
        ]
    rules += [
        f"meta l4proto tcp meta mark & {_REPLY} accept",
        'oifname "lo" ip daddr != 127.0.0.1 accept',
        'oifname "lo" ip6 daddr != ::1 accept',
    ]
    for protocol, loopback, version in (("ip", "127.0.0.1", 4), ("ip6", "::1", 6)):
        if never := _ranges(outbound.never_ranges, version):
            rules.append(f"{protocol} daddr {never} {_PASS} return")
        match = f"{protocol} daddr != {loopback}"
        redirect = f"{_NOT_OURS} {_SYN} redirect to :{names.OUTBOUND_PORT}"
        if outbound.ranges is None:
            rules.append(f"{match} meta l4proto tcp {redirect}")
            continue
        if outbound.ports:
            rules.append(f"{match} tcp dport {_any(outbound.ports)} {redirect}")
        if only := _ranges(outbound.ranges, version):
            rules.append(f"{match} {protocol} daddr {only} meta l4proto tcp {redirect}")
    return [*rules, f'oifname != "lo" {_SYN} {_PASS}']


def _any(values: Iterable[object]) -> str:
    return "{ " + ", ".join(str(value) for value in values) + " }"


def _ranges(ranges: Iterable[Network], version: int) -> str:
    found = [network for network in ranges if network.version == version]
    return _any(found) if found else ""


def probe_rules(addresses: Iterable[str]) -> str:
    """Return the transaction that makes the host's table hold exactly these pod addresses.

    Only packets of a local socket have an owner to match, so what is forwarded (or comes through a service) is not
    exempt. What is exempt is given an address that no pod can have, which the pod's rules let pass.
    """
    by_version: dict[int, list[str]] = {4: [], 6: []}
    for address in sorted(addresses):
        by_version[ip_address(address).version].append(address)
    local = "meta l4proto tcp meta skuid >= 0"
    sets = [_set("pods_v4", "ipv4_addr", by_version[4]), _set("pods_v6", "ipv6_addr", by_version[6])]
    rules = [
        f"ip daddr @pods_v4 {local} snat ip to {names.PROBE_SOURCE_V4}",
        f"ip6 daddr @pods_v6 {local} snat ip6 to {names.PROBE_SOURCE_V6}",
    ]
    # Before the source address is rewritten by anybody else: Kubernetes masquerades at 100 (`srcnat`).
    chain = _chain("postrouting", "type nat hook postrouting priority 99", rules)
    return f"{remove(HOST_TABLE)}table {FAMILY} {HOST_TABLE} {{\n" + "".join(sets) + chain + "}\n"


def probe_changes(added: Iterable[str], removed: Iterable[str]) -> str:
    """Return the transaction that adds and removes pod addresses; quicker than a new table by the same factor."""
    changes = [("add", address) for address in sorted(added)] + [("delete", address) for address in sorted(removed)]
    return "".join(
        f"{verb} element {FAMILY} {HOST_TABLE} pods_v{ip_address(address).version} {{ {address} }}\n"
        for verb, address in changes
    )


def remove(table: str) -> str:
    """Return the transaction that removes one of our tables."""
    return f"table {FAMILY} {table}\ndelete table {FAMILY} {table}\n"


def _chain(name: str, hook: str, rules: list[str]) -> str:
    lines = [f"\tchain {name} {{", f"\t\t{hook}; policy accept;", *(f"\t\t{rule}" for rule in rules), "\t}\n"]
    return "\n".join(lines)


def _set(name: str, kind: str, elements: list[str]) -> str:
    content = f"\t\telements = {{ {', '.join(elements)} }}\n" if elements else ""
    return f"\tset {name} {{\n\t\ttype {kind}\n{content}\t}}\n"
