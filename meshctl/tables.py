"""What a ztunnel knows, as tables. Pure: from its configuration dump to rows, in the columns of ``istioctl``."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from meshctl.output import Table

Item = Mapping[str, Any]


def workloads(items: Sequence[Item]) -> Table:
    """Return the workloads: where each is, and over which protocol it is reached."""
    rows = [
        (
            one.get("namespace", ""),
            one.get("name", ""),
            ",".join(one.get("workloadIps") or ()),
            one.get("node", ""),
            _waypoint(one),
            one.get("protocol", ""),
        )
        for one in items
    ]
    return Table(("NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"), sorted(rows))


def services(items: Sequence[Item]) -> Table:
    """Return the services: addresses, and how many of the endpoints are healthy."""
    rows = [
        (
            one.get("namespace", ""),
            one.get("name", ""),
            ",".join(vip.rpartition("/")[2] for vip in one.get("vips") or ()) or "None",
            _waypoint(one),
            _endpoints(one.get("endpoints") or {}),
        )
        for one in items
    ]
    return Table(("NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"), sorted(rows))


def policies(items: Sequence[Item]) -> Table:
    """Return the policies: what each does, and for whom."""
    rows = [
        (one.get("namespace", ""), one.get("name", ""), one.get("action", ""), one.get("scope", "")) for one in items
    ]
    return Table(("NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"), sorted(rows))


def certificates(items: Sequence[Item], now: datetime) -> Table:
    """Return the certificates of each identity: leaf, intermediates, root."""
    rows = []
    for one in items:
        node, identity, state = one.get("node", ""), one.get("identity", ""), one.get("state", "")
        chain = one.get("certChain") or ()
        kinds = ["Leaf", *["Intermediate"] * len(chain)]
        listed = [*zip(kinds, chain, strict=False), *(("Root", root) for root in one.get("rootCerts") or ())]
        rows += [(node, identity, kind, state, *_certificate(found, now)) for kind, found in listed]
        if not listed:
            rows.append((node, identity, "", state, "", "", "", ""))
    columns = (
        "NODE", "CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE",
    )  # fmt: skip
    return Table(columns, rows)


def connections(items: Sequence[Item]) -> Table:
    """Return the open connections of the pods that are served."""
    rows = [
        (
            one.get("node", ""),
            f"{(one.get('info') or {}).get('name', '')}.{_pod_namespace(one)}",
            direction.capitalize(),
            flow.get("src", ""),
            flow.get("originalDst", ""),
            flow.get("actualDst", ""),
            flow.get("protocol", ""),
        )
        for one in items
        for direction in ("inbound", "outbound")
        for flow in (one.get("connections") or {}).get(direction) or ()
    ]
    columns = ("NODE", "WORKLOAD", "DIRECTION", "SOURCE", "DESTINATION", "SENT TO", "PROTOCOL")
    return Table(columns, sorted(rows))


def namespace_of(section: str, item: Item) -> str:
    """Return the namespace that an item of a section belongs to."""
    return _NAMESPACES.get(section, _plain_namespace)(item)


def _plain_namespace(item: Item) -> str:
    return str(item.get("namespace", ""))


def _identity_namespace(item: Item) -> str:
    return str(item.get("identity", "")).partition("/ns/")[2].partition("/")[0]


def _pod_namespace(item: Item) -> str:
    return str((item.get("info") or {}).get("namespace", ""))


_NAMESPACES: Final[Mapping[str, Callable[[Item], str]]] = {
    "certificates": _identity_namespace,
    "workloadState": _pod_namespace,
}


def _waypoint(item: Item) -> str:
    destination = str((item.get("waypoint") or {}).get("destination") or "None")
    name = destination.rpartition("/")[2]  # of namespace/hostname or network/address
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.partition(".")[0]
    return destination


def _endpoints(endpoints: Mapping[str, Item]) -> str:
    healthy = sum(1 for one in endpoints.values() if one.get("status", "Healthy") == "Healthy")
    return f"{healthy}/{len(endpoints)}"


def _certificate(item: Item, now: datetime) -> tuple[str, str, str, str]:
    begin, end = str(item.get("validFrom", "")), str(item.get("expirationTime", ""))
    valid = _time(begin) <= now <= _time(end)
    return (str(valid).lower(), str(item.get("serialNumber", "")), end, begin)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)
