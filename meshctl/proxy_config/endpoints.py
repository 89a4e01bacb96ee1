"""Endpoints of clusters, with what the proxy thinks of each. Pure."""

import ipaddress
from dataclasses import dataclass
from typing import Any

from meshctl.output import Table
from meshctl.proxy_config.dump import Dump, Item, socket


@dataclass(frozen=True, slots=True)
class Filter:
    """Which endpoints are shown; what is empty or 0 does not restrict.

    Attributes:
        address: an address.
        port: a port.
        cluster: the full name of a cluster.
        status: a state of health, as ``healthy``.
    """

    address: str = ""
    port: int = 0
    cluster: str = ""
    status: str = ""

    def chosen(self, dump: Dump) -> list[dict[str, Any]]:
        """Return the clusters that have such endpoints, with those alone."""
        found = []
        for one in dump.endpoints:
            hosts = [host for host in one.get("host_statuses") or () if self._takes(host, one["name"])]
            if hosts:
                found.append({**one, "host_statuses": hosts})
        return found

    def _takes(self, host: Item, cluster: str) -> bool:
        address, port = socket(host.get("address", {}))
        return (
            self.address.lower() in ("", address.lower())
            and self.port in (0, port)
            and self.cluster.lower() in ("", cluster.lower())
            and self.status.lower() in ("", _health(host).lower())
        )


def table(items: list[dict[str, Any]]) -> Table:
    """Return endpoints for people, by address."""
    rows = sorted(
        (
            (_order(*socket(host.get("address", {}))), _line(host, one["name"]))
            for one in items
            for host in one["host_statuses"]
        ),
    )
    return Table(("ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"), [line for _, line in rows])


def _line(host: Item, cluster: str) -> tuple[str, str, str, str]:
    address, port = socket(host.get("address", {}))
    text = f"[{address}]" if port and ":" in address else address
    failed = (host.get("health_status") or {}).get("failed_outlier_check")
    return (f"{text}:{port}" if port else text, _health(host), "FAILED" if failed else "OK", cluster)


def _health(host: Item) -> str:
    return str((host.get("health_status") or {}).get("eds_health_status", "UNKNOWN"))


def _order(address: str, port: int) -> tuple[int, int, str, int]:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return (9, 0, address, port)
    return (found.version, int(found), "", port)
