"""Clusters. Pure."""

from dataclasses import dataclass

from meshctl.output import Table
from meshctl.proxy_config.dump import Dump, Item, origin

_NONE = "-"


@dataclass(frozen=True, slots=True)
class Name:
    """A cluster's name by parts: ``DIRECTION|PORT|SUBSET|FQDN``, or a word of its own."""

    fqdn: str
    port: int = 0
    subset: str = ""
    direction: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which clusters are shown; what is empty or 0 does not restrict.

    Attributes:
        fqdn: a part of the service's name.
        port: the service's port.
        subset: a part of the subset.
        direction: a part of the direction.
    """

    fqdn: str = ""
    port: int = 0
    subset: str = ""
    direction: str = ""

    def chosen(self, dump: Dump) -> list[Item]:
        """Return the clusters, by name of the service."""
        found = [one for one in dump.clusters if self._takes(parse(one["name"]))]
        return sorted(found, key=lambda one: _order(parse(one["name"])))

    def _takes(self, name: Name) -> bool:
        return (
            self.fqdn in name.fqdn
            and self.port in (0, name.port)
            and self.subset in name.subset
            and self.direction in name.direction
        )


def parse(name: str) -> Name:
    """Return a cluster's name by parts."""
    parts = name.split("|")
    if len(parts) != 4 or not parts[1].isdecimal():
        return Name(name)
    direction, port, subset, fqdn = parts
    return Name(fqdn, int(port), subset, direction)


def table(items: list[Item]) -> Table:
    """Return clusters for people."""
    rows = []
    for one in items:
        name = parse(one["name"])
        port = str(name.port) if name.port else _NONE
        kind = one.get("type", "STATIC")
        rows.append((name.fqdn, port, name.subset or _NONE, name.direction or _NONE, kind, origin(one)))
    return Table(("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"), rows)


def _order(name: Name) -> tuple[str, str, int, str]:
    return (name.fqdn, name.subset, name.port, name.direction)
