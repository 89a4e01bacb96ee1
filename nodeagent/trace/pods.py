"""Which pod has which address, and whether a connection is one that was asked for. Pure but for ``fetch``."""

import json
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meshapi import names
from nodeagent.trace.events import Endpoint

_PAGE: Final = f"http://127.0.0.1:{names.NODE_AGENT_METRICS_PORT}/debug/pods"
_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class End:
    """What is known of one end of a connection.

    Attributes:
        name: ``namespace/pod``; empty where it is not known.
        address: its address.
        port: its port.
        host: the host of the service that was called.
    """

    name: str
    address: str
    port: int
    host: str = ""


class Pods:
    """The pods of this node, by address."""

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        self._by_address = {
            address: f"{one['namespace']}/{one['name']}" for one in items for address in one.get("addresses") or ()
        }

    def end(self, endpoint: Endpoint, *, name: str = "", host: str = "") -> End:
        """Return what is known of an address; ``name`` is what ztunnel says of it."""
        return End(self._by_address.get(endpoint[0], name), *endpoint, host)

    def title(self, endpoint: Endpoint) -> str:
        """Return ``address:port``, with the pod where it is known."""
        address, port = endpoint
        text = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        name = self._by_address.get(address)
        return f"{text} ({name})" if name else text


def fetch() -> Pods:
    """Ask the node agent of this node.

    Raises:
        OSError: it does not answer.
    """
    with urllib.request.urlopen(_PAGE, timeout=_TIMEOUT_S) as answer:
        return Pods(json.load(answer))


def matches(wanted: str, end: End) -> bool:
    """Return whether an end is the one that was asked for.

    Args:
        wanted: ``POD``, ``POD.NAMESPACE``, ``NAMESPACE/POD``, ``SERVICE.NAMESPACE``, an address, or any of them with
            ``:PORT``; ``:PORT`` alone; empty: any.
        end: one end of a connection.
    """
    where, has_port, port = wanted.rpartition(":")
    if not has_port or not port.isdecimal() or (":" in where and not where.startswith("[")):
        where, port = wanted, ""
    if port and int(port) != end.port:
        return False
    where = where.removeprefix("[").removesuffix("]")
    if where in ("", end.address):
        return True
    namespace, _, pod = end.name.partition("/")
    if where in {end.name, pod, f"{pod}.{namespace}"}:
        return True
    return bool(end.host) and f"{end.host}.".startswith(f"{where}.")
