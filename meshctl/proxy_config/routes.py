"""Routes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meshctl.output import Table
from meshctl.proxy_config.dump import Dump, Item, origin

_SHOWN_DOMAINS: Final = 2
_NOTHING: Final = ("/*", "404")
"""What a virtual host without routes does."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which route configurations are shown: all, or that of one name."""

    name: str = ""

    def chosen(self, dump: Dump) -> list[Item]:
        """Return the route configurations, by name."""
        found = [one for one in dump.routes if self.name in ("", one.get("name", ""))]
        return sorted(found, key=lambda one: str(one.get("name", "")))


def table(items: list[Item]) -> Table:
    """Return every route for people, in the order in which they are tried."""
    rows = [
        (str(one.get("name", "")), str(host.get("name", "")), domains(host.get("domains") or ()), match, made_from)
        for one in items
        for host in one.get("virtual_hosts") or ()
        for match, made_from in _lines(host)
    ]
    return Table(("NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"), rows)


def counts(items: list[Item]) -> Table:
    """Return the number of virtual hosts of each."""
    rows = [(str(one.get("name", "")), str(len(one.get("virtual_hosts") or ()))) for one in items]
    return Table(("NAME", "VIRTUAL HOSTS"), rows)


def domains(names: Sequence[str]) -> str:
    """Return the shortest forms of a virtual host's names, two of them at most."""
    plain = [name for name in names if ":" not in name or name.endswith("]")] or list(names)
    short = [
        name
        for name in plain
        if not any(name != (cut := name.removesuffix(end)) and cut in plain for end in (".svc.cluster.local", ".svc"))
    ]
    more = len(short) - _SHOWN_DOMAINS
    text = ", ".join(short[:_SHOWN_DOMAINS])
    return f"{text} + {more} more..." if more > 0 else text


def described(match: Item) -> str:
    """Return what a route matches: the path, and after it the number of its other conditions."""
    others = sum(len(match.get(key) or ()) for key in ("headers", "query_parameters", "cookies", "dynamic_metadata"))
    return " ".join(part for part in (_path(match), f"+{others}" if others else "") if part)


def _lines(host: Item) -> list[tuple[str, str]]:
    found = [(described(one.get("match") or {}), origin(one)) for one in host.get("routes") or ()]
    return found or [_NOTHING]


def _path(match: Item) -> str:
    if "prefix" in match:
        return f"{match['prefix']}*"
    if "path_separated_prefix" in match:
        return f"PathPrefix:{match['path_separated_prefix']}"
    if "safe_regex" in match:
        return f"regex {match['safe_regex'].get('regex', '')}"
    if "connect_matcher" in match:
        return "CONNECT"
    return str(match.get("path", ""))
