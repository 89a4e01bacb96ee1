"""A plan in iptables' language. Pure; the golden files under ``tests/golden`` show what comes out.

The same meaning, rule for rule, as ``nodeagent.capture.nftables.rules``, which gives the reasons. A table holds chains
of our own, to which the kernel's chains jump; whatever else is in a table belongs to others and is left alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from meshapi import names
from nodeagent.capture.plan import Mode, Network, Outbound, PodPlan

CHAINS: Final = {"PREROUTING": "CULVERT_PRERT", "OUTPUT": "CULVERT_OUTPUT", "POSTROUTING": "CULVERT_POSTRT"}
"""Our chains, by the kernel's chain that jumps to them."""
TABLES: Final = ("mangle", "raw", "nat")
"""In the order of being made: answers find their way before the first connection is redirected."""
SETS: Final = {4: "culvert-probes-v4", 6: "culvert-probes-v6"}

Option = tuple[str, tuple[str, ...], bool]
"""Name, values, and whether it is inverted."""


@dataclass(frozen=True, slots=True)
class Extension:
    """A match or a target, with its options as its manual page names them, without dashes."""

    name: str
    options: tuple[Option, ...] = ()

    def words(self) -> list[str]:
        """Return the options as in a command."""
        return [word for name, values, inverted in self.options for word in (*["!"] * inverted, f"--{name}", *values)]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. An address or interface that begins with ``!`` means all others."""

    target: Extension
    protocol: str = ""
    source: str = ""
    destination: str = ""
    from_interface: str = ""
    to_interface: str = ""
    matches: tuple[Extension, ...] = ()

    def words(self) -> list[str]:
        """Return the rule as in a command, without its chain."""
        found: list[str] = []
        heads = (
            ("-s", self.source), ("-d", self.destination), ("-i", self.from_interface), ("-o", self.to_interface),
            ("-p", self.protocol),
        )  # fmt: skip
        for flag, value in heads:
            if value:
                found += ["!", flag, value[1:]] if value.startswith("!") else [flag, value]
        for match in self.matches:
            found += ["-m", match.name, *match.words()]
        return [*found, "-j", self.target.name, *self.target.words()]


Table = Mapping[str, tuple[Rule, ...]]
"""Rules of our chains, by the kernel's chain that jumps to ours; one that is not named has no chain of ours."""


def pod_tables(plan: PodPlan, version: int) -> dict[str, Table]:
    """Return every table of ``TABLES`` as planned, for IPv4 or IPv6."""
    if plan.mode is Mode.NONE:
        return {name: {} for name in TABLES}
    capture = plan.mode is Mode.CAPTURE
    mangle: dict[str, tuple[Rule, ...]] = {
        "PREROUTING": (Rule(_target("CONNMARK", ("set-xmark", _REPLY)), matches=(_OURS,)),),
        "OUTPUT": (
            Rule(
                _target("CONNMARK", ("restore-mark",), ("nfmask", "0xffffffff"), ("ctmask", "0xffffffff")),
                matches=(_CONNECTION,),
            ),
        ),
    }
    if capture:
        seen = _target("MARK", ("set-xmark", _PASSED))
        passed = _match("connmark", ("mark", _PASSED))
        mangle["POSTROUTING"] = (Rule(seen, matches=(_OURS,)), Rule(seen, to_interface="!lo", matches=(passed,)))
    nat: Table = {
        "PREROUTING": tuple(_inbound(plan, version)) if capture else (),
        "OUTPUT": tuple(_outbound(plan, version)) if capture else (),
    }
    raw: Table = {}
    if capture and plan.dns:
        zone = _target("CT", ("zone", str(names.DNS_CONNTRACK_ZONE)))
        raw = {
            "PREROUTING": (Rule(zone, protocol="udp", matches=(_match("udp", ("sport", _DNS)), _NOT_OURS)),),
            "OUTPUT": (Rule(zone, protocol="udp", matches=(_match("udp", ("dport", _DNS)), _OURS)),),
        }
    return {"mangle": mangle, "raw": raw, "nat": nat}


def probe_tables(version: int, addresses: Iterable[str] | None, *, present: bool = True) -> dict[str, Table]:
    """Return the host's table that exempts probes of local processes.

    Args:
        version: of IP.
        addresses: a rule for each of these pods; ``None``: one rule for the set that ``SETS`` names.
        present: false: nothing is exempt and nothing stays.
    """
    if not present:
        return {"nat": {}}
    local = _match("owner", ("socket-exists",))
    source = names.PROBE_SOURCE_V4 if version == 4 else names.PROBE_SOURCE_V6
    target = _target("SNAT", ("to-source", source))
    if addresses is None:
        listed = _match("set", ("match-set", SETS[version], "dst"))
        return {"nat": {"POSTROUTING": (Rule(target, protocol="tcp", matches=(local, listed)),)}}
    full = 32 if version == 4 else 128
    own = [address for address in sorted(addresses) if ip_address(address).version == version]
    rules = [Rule(target, protocol="tcp", destination=f"{address}/{full}", matches=(local,)) for address in own]
    return {"nat": {"POSTROUTING": tuple(rules)}}


def text(name: str, table: Table) -> str:
    """Return a table in the form of ``iptables-save``, for people and for ``iptables-restore --noflush``.

    Our chains are emptied and filled; jumps to them are not part of it.
    """
    lines = [f"*{name}", *(f":{CHAINS[hook]} - [0:0]" for hook in table)]
    lines += [" ".join(["-A", CHAINS[hook], *rule.words()]) for hook, rules in table.items() for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


def _inbound(plan: PodPlan, version: int) -> Iterable[Rule]:
    for name in plan.virtual_interfaces:
        yield Rule(_redirect(names.OUTBOUND_PORT), protocol="tcp", from_interface=name, matches=(_SYN,))
        yield from _passed(_RETURN, from_interface=name)
    yield Rule(_PASS, protocol="tcp", from_interface="!lo", matches=(_SYN, _NOT_OURS))
    if plan.inbound is None:
        return
    for name in plan.excluded_interfaces:
        yield from _passed(_RETURN, from_interface=name)
    yield from _passed(_ACCEPT, protocol="tcp", source=_PROBES[version])
    redirect = _redirect(names.INBOUND_PLAINTEXT_PORT)
    if plan.inbound.only is None:
        for port in plan.inbound.never:
            yield from _passed(_RETURN, protocol="tcp", matches=(_match("tcp", ("dport", str(port))),))
        yield _captured(redirect, version, _match("tcp", ("dport", f"!{names.HBONE_PORT}")))
        return
    for port in plan.inbound.only:
        if port != names.HBONE_PORT:
            yield _captured(redirect, version, _match("tcp", ("dport", str(port))))


def _outbound(plan: PodPlan, version: int) -> Iterable[Rule]:
    outbound = plan.outbound
    for name in plan.excluded_interfaces:
        yield from _passed(_RETURN, to_interface=name)
    yield from _passed(_ACCEPT, protocol="tcp", destination=_PROBES[version])
    for port in outbound.never_ports:
        for protocol in ("tcp", "udp"):
            yield from _passed(_RETURN, protocol=protocol, matches=(_match(protocol, ("dport", str(port))),))
    if plan.dns:
        redirect = _redirect(names.DNS_PORT)
        question = _match("udp", ("dport", _DNS))
        yield Rule(redirect, protocol="udp", to_interface="!lo", matches=(question, _NOT_OURS))
        yield _captured(redirect, version, _match("tcp", ("dport", _DNS)))
    yield Rule(_ACCEPT, protocol="tcp", matches=(_REPLYING,))
    yield Rule(_ACCEPT, to_interface="lo", destination=f"!{_LOOPBACK[version]}")
    for network in outbound.never_ranges:
        if network.version == version:
            yield from _passed(_RETURN, destination=str(network))
    yield from _to_outside(outbound, version)
    yield Rule(_PASS, protocol="tcp", to_interface="!lo", matches=(_SYN,))


def _to_outside(outbound: Outbound, version: int) -> Iterable[Rule]:
    redirect = _redirect(names.OUTBOUND_PORT)
    if outbound.ranges is None:
        yield _captured(redirect, version)
        return
    for port in outbound.ports:
        yield _captured(redirect, version, _match("tcp", ("dport", str(port))))
    yield from _ranges(redirect, outbound.ranges, version)


def _passed(target: Extension, **match: Any) -> Iterable[Rule]:
    """Leave alone what matches, and say so to the guard."""
    yield Rule(_PASS, **match)
    yield Rule(target, **match)


def _ranges(redirect: Extension, ranges: Iterable[Network], version: int) -> Iterable[Rule]:
    own = [network for network in ranges if network.version == version]
    if own:
        # A rule has one destination, and the loopback address must stay out of it.
        yield Rule(_RETURN, destination=_LOOPBACK[version])
    for network in own:
        yield Rule(redirect, protocol="tcp", destination=str(network), matches=(_SYN, _NOT_OURS))


def _captured(redirect: Extension, version: int, *matches: Extension) -> Rule:
    return Rule(redirect, protocol="tcp", destination=f"!{_LOOPBACK[version]}", matches=(*matches, _SYN, _NOT_OURS))


def _option(name: str, *values: str) -> Option:
    if values and values[0].startswith("!"):
        return name, (values[0][1:], *values[1:]), True
    return name, values, False


def _match(name: str, *options: tuple[str, ...]) -> Extension:
    return Extension(name, tuple(_option(*option) for option in options))


_target = _match


def _redirect(port: int) -> Extension:
    return _target("REDIRECT", ("to-ports", str(port)))


_DNS: Final = "53"
_LOOPBACK: Final = {4: "127.0.0.1/32", 6: "::1/128"}
_PROBES: Final = {4: f"{names.PROBE_SOURCE_V4}/32", 6: f"{names.PROBE_SOURCE_V6}/128"}
_MARK: Final = f"{names.TUNNEL_MARK:#x}/{names.TUNNEL_MARK_MASK:#x}"
_REPLY: Final = f"{names.REPLY_CONNMARK:#x}/{names.REPLY_CONNMARK_MASK:#x}"
_PASSED: Final = f"{names.PASSED_MARK:#x}/{names.PASSED_MARK:#x}"
_OURS: Final = _match("mark", ("mark", _MARK))
_NOT_OURS: Final = _match("mark", ("mark", f"!{_MARK}"))
_REPLYING: Final = _match("mark", ("mark", _REPLY))
_CONNECTION: Final = _match("connmark", ("mark", _REPLY))
_SYN: Final = _match("tcp", ("tcp-flags", "FIN,SYN,RST,ACK", "SYN"))
_PASS: Final = _target("CONNMARK", ("set-xmark", _PASSED))
_ACCEPT: Final = Extension("ACCEPT")
_RETURN: Final = Extension("RETURN")
