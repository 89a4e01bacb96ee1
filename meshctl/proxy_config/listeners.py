"""Listeners, with their filter chains and where each leads. Pure."""

from dataclasses import dataclass
from typing import Final

from meshctl.output import Table
from meshctl.proxy_config import chain_matches, routes
from meshctl.proxy_config.dump import Dump, Item, socket

_HTTP: Final = "envoy.filters.network.http_connection_manager"
_TCP: Final = "envoy.filters.network.tcp_proxy"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which listeners are shown; what is empty or 0 does not restrict.

    Attributes:
        address: one that it listens on.
        port: the port.
        type: ``HTTP``, ``TCP``, ``HTTP+TCP`` or ``UNKNOWN``, in any case of letters.
    """

    address: str = ""
    port: int = 0
    type: str = ""

    def chosen(self, dump: Dump) -> list[Item]:
        """Return the listeners: by port, those inside of the proxy before them by name."""
        found = [one for one in dump.listeners if self._takes(one)]
        return sorted(found, key=lambda one: (_port(one), str(one.get("name", ""))))

    def _takes(self, listener: Item) -> bool:
        return (
            self.address.lower() in ("", *(address.lower() for address in _addresses(listener)))
            and self.port in (0, _port(listener))
            and self.type.upper() in ("", _type(listener))
        )


def table(items: list[Item]) -> Table:
    """Return every filter chain for people, in the columns that ``istioctl`` has for waypoints."""
    rows = []
    for one in items:
        chosen = chain_matches.by_chain(one.get("filter_chain_matcher") or {})
        for chain in _chains(one):
            name = str(chain.get("name", ""))
            match = chosen.get(name) or _match(chain.get("filter_chain_match") or {})
            rows.append((_title(one), name, match, _destination(chain)))
    return Table(("LISTENER", "CHAIN", "MATCH", "DESTINATION"), rows)


def types(items: list[Item]) -> Table:
    """Return addresses and type of each."""
    rows = [(",".join(_addresses(one)) or _title(one), str(_port(one)), _type(one)) for one in items]
    return Table(("ADDRESSES", "PORT", "TYPE"), rows)


def _title(listener: Item) -> str:
    name = str(listener.get("name", ""))
    return f"envoy://{name}" if "internal_listener" in listener else name


def _addresses(listener: Item) -> list[str]:
    more = [one.get("address") for one in listener.get("additional_addresses") or ()]
    return [socket(one)[0] for one in (listener.get("address"), *more) if one]


def _port(listener: Item) -> int:
    return socket(listener.get("address") or {})[1]


def _chains(listener: Item) -> list[Item]:
    last = listener.get("default_filter_chain")
    return [*(listener.get("filter_chains") or ()), *([last] if last else [])]


def _type(listener: Item) -> str:
    used = {one.get("name") for chain in _chains(listener) for one in chain.get("filters") or ()}
    return "+".join(word for name, word in ((_HTTP, "HTTP"), (_TCP, "TCP")) if name in used) or "UNKNOWN"


def _match(match: Item) -> str:
    parts = []
    if names := match.get("server_names"):
        parts.append(f"SNI: {','.join(names)}")
    if protocol := match.get("transport_protocol"):
        parts.append(f"Trans: {protocol}")
    if protocols := match.get("application_protocols"):
        parts.append(f"App: {','.join(protocols)}")
    port = f":{match['destination_port']}" if "destination_port" in match else ""
    ranges = [f"{one['address_prefix']}/{one.get('prefix_len', 0)}" for one in match.get("prefix_ranges") or ()]
    if ranges or port:
        parts.append(f"Addr: {','.join(ranges) or '*'}{port}")
    return "; ".join(parts) or "ALL"


def _destination(chain: Item) -> str:
    for one in chain.get("filters") or ():
        config = one.get("typed_config") or {}
        if one.get("name") == _HTTP:
            return _http(config)
        if one.get("name") == _TCP:
            return _tcp(config)
    return "Non-HTTP/Non-TCP"


def _http(config: Item) -> str:
    if name := (config.get("rds") or {}).get("route_config_name"):
        return f"Route: {name}"
    hosts = (config.get("route_config") or {}).get("virtual_hosts") or ()
    lines = []
    for host in hosts:
        tried = ", ".join(routes.described(one.get("match") or {}) for one in host.get("routes") or ())
        names = "/".join(host.get("domains") or ())
        lines.append(tried if names == "*" else f"{names} {tried}")
    return f"Inline Route: {'; '.join(lines)}" if lines else "HTTP"


def _tcp(config: Item) -> str:
    weighted = (config.get("weighted_clusters") or {}).get("clusters") or ()
    if weighted:
        shares = (f"{one['name']} ({one.get('weight', 0)})" for one in weighted)
        return f"Cluster: {', '.join(shares)}"
    cluster = str(config.get("cluster", ""))
    return cluster if "Cluster" in cluster else f"Cluster: {cluster}"
