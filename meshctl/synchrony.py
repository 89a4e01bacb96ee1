"""Whether proxies have what the control plane sent them, from its page ``/debug/syncz``. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from meshapi import names
from meshctl.output import Table
from meshkit.kube import Json

_TITLES: Final = {names.ADDRESS_TYPE: "ADDRESSES", names.AUTHORIZATION_TYPE: "POLICIES"}
_OPTIONAL_TITLES: Final = {names.MESH_CONFIG_TYPE: "MESH CONFIG"}
"""Types that Istio's ztunnel does not subscribe to."""


class State(StrEnum):
    """The sync state of a proxy for one type of resource, in ``istioctl``'s words where it has one."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    """Sent, and not answered yet."""
    NOT_SENT = "NOT SENT"
    NACK = "NACK"
    """Something was refused; the proxy keeps the last good form of it."""
    NOT_CONNECTED = "NOT CONNECTED"


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy.

    Attributes:
        name: its pod and namespace.
        node: where it runs.
        plane: the replica that serves it; empty when none does.
        types: by title of the type.
        reasons: why something was refused, by title of the type.
    """

    name: str
    node: str
    plane: str = ""
    version: str = ""
    types: Mapping[str, State] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_synced(self) -> bool:
        """Whether it has everything."""
        return bool(self.types) and set(self.types.values()) <= {State.SYNCED}

    @property
    def document(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.name,
            "node": self.node,
            "controlPlane": self.plane,
            "version": self.version,
            "types": {title.lower(): found.value for title, found in self.types.items()},
            "reasons": {title.lower(): reason for title, reason in self.reasons.items()},
        }


def state(item: Json) -> State:
    """Return the sync state of one type, from its part of the page."""
    if item.get("refused") or item.get("nacked", 0) > item.get("acked", 0):
        return State.NACK
    if not item.get("sent"):
        return State.NOT_SENT
    return State.SYNCED if item["acked"] == item["sent"] else State.STALE


def proxies(pages: Mapping[str, Sequence[Json]], ztunnels: Iterable[tuple[str, str]]) -> list[Proxy]:
    """Return every proxy.

    Args:
        pages: what each replica of the control plane says, by its pod.
        ztunnels: name and node of those that ought to be connected.
    """
    found = [_proxy(plane, stream) for plane, streams in pages.items() for stream in streams]
    known = {proxy.name for proxy in found}
    found += [Proxy(name, node, types=_none()) for name, node in ztunnels if name not in known]
    return sorted(found, key=lambda proxy: (proxy.name, proxy.plane))


def table(found: Sequence[Proxy]) -> Table:
    """Return the proxies for people; the reasons are said apart, they are long."""
    titles = list(dict.fromkeys((*_TITLES.values(), *(title for proxy in found for title in proxy.types))))
    rows = [
        (proxy.name, proxy.node, *(_word(proxy, title) for title in titles), proxy.plane or "-", proxy.version or "-")
        for proxy in found
    ]
    return Table(("NAME", "NODE", *titles, "CONTROL PLANE", "VERSION"), rows)


def reasons(found: Iterable[Proxy]) -> list[str]:
    """Return one sentence for each refusal."""
    return [
        f"{proxy.name} refused {title.lower()}: {reason}" for proxy in found for title, reason in proxy.reasons.items()
    ]


def _proxy(plane: str, stream: Json) -> Proxy:
    types = {_title(type_url): item for type_url, item in stream["types"].items()}
    states = {title: state(item) for title, item in types.items()}
    return Proxy(
        name=_name(stream["proxy"]),
        node=stream.get("node", ""),
        plane=plane,
        version=stream.get("version", ""),
        types=states or dict.fromkeys(_TITLES.values(), State.NOT_SENT),
        reasons={title: _reason(types[title]) for title, found in states.items() if found is State.NACK},
    )


def _none() -> dict[str, State]:
    return dict.fromkeys(_TITLES.values(), State.NOT_CONNECTED)


def _word(proxy: Proxy, title: str) -> str:
    found = proxy.types.get(title)
    return found.value if found is not None else "-"


def _reason(item: Json) -> str:
    reasons = list((item.get("refused") or {}).values())
    return str(reasons[-1] if reasons else item.get("error", ""))


def _name(node_id: str) -> str:
    """Return pod and namespace out of ``ztunnel~10.0.0.9~pod.namespace~domain``."""
    parts = node_id.split("~")
    return parts[2] if len(parts) == 4 else node_id


def _title(type_url: str) -> str:
    return (_TITLES | _OPTIONAL_TITLES).get(type_url) or type_url.rpartition(".")[2].upper()
