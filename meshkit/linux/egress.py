"""BPF programs on what leaves links, or arrives, in the namespace that the calling thread is in (see ``netns.run``).

Attached as filters of traffic control, which every kernel with BPF has. They stay until they are
detached or their link is removed.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netlink import nla, nla_base

from meshkit.linux.netlink import opened

_EGRESS: Final = 0xFFFFFFF3  # TC_H_CLSACT with TC_H_MIN_EGRESS
_INGRESS: Final = 0xFFFFFFF2
_HANDLE: Final = 1
_BPF_ID: Final = 11  # TCA_BPF_ID
_ATTRIBUTE_HEADER: Final = 4  # bytes: length and type
_EXISTS: Final = 17
_ABSENT: Final = (2, 19, 22)
"""ENOENT, ENODEV, EINVAL (no such queue): it is not there, which is what a removal wants."""


class Way(Enum):
    """Which packets of a link a program sees: the value is the kernel's number of the place."""

    LEAVING = _EGRESS
    ARRIVING = _INGRESS


class Egress:
    """The links of a namespace, and on which of them the program of a name is.

    Attributes:
        links: names of all links that are looked at.
        attached: by name of each link that has the program, the kernel's id of the program.
    """

    def __init__(
        self, netlink: IPRoute, name: str, priority: int, way: Way, only: frozenset[int] | None = None
    ) -> None:
        self._netlink = netlink
        self._name = name
        self._priority = priority
        self._parent = way.value
        looked_at = netlink.get_links() if only is None else _links(netlink, only)
        self._indices = {link.get_attr("IFLA_IFNAME"): link["index"] for link in looked_at}
        self.links = frozenset(self._indices)
        found = {link: self._find(index) for link, index in self._indices.items()}
        self.attached: dict[str, int] = {link: program for link, program in found.items() if program is not None}

    def attach(self, link: str, program: int) -> None:
        """Put a program on a link; one of the name that is there is replaced without a gap.

        Args:
            link: name of the link.
            program: descriptor of a program of type SCHED_CLS; stays the caller's.

        Raises:
            NetlinkError: the link is as it was, or has an empty queue for programs.
        """
        index = self._indices[link]
        try:
            self._netlink.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != _EXISTS:
                raise
        what = {"fd": program, "name": self._name, "direct_action": True, "classid": _HANDLE}
        verb = "replace-filter" if link in self.attached else "add-filter"
        self._netlink.tc(verb, "bpf", index, f":{_HANDLE}", parent=self._parent, prio=self._priority, **what)
        self.attached[link] = _id_of(program)

    def detach(self, link: str) -> None:
        """Take the program off a link that has it; what others have put there stays.

        Raises:
            NetlinkError: the program may still be there.
        """
        index = self._indices[link]
        try:
            self._netlink.tc("del-filter", "bpf", index, f":{_HANDLE}", parent=self._parent, prio=self._priority)
            if not any(self._netlink.get_filters(index=index, parent=parent) for parent in (_EGRESS, _INGRESS)):
                self._netlink.tc("del", "clsact", index)
        except NetlinkError as error:
            if error.code not in _ABSENT:
                raise
        self.attached.pop(link, None)

    def _find(self, index: int) -> int | None:
        """Return the id of the program on a link."""
        for message in self._netlink.get_filters(index=index, parent=self._parent):
            options = message.get_attr("TCA_OPTIONS")
            if options is not None and options.get_attr("TCA_BPF_NAME") == self._name:
                return _id_in(options)
        return None


def _links(netlink: IPRoute, indices: frozenset[int]) -> Iterator[Any]:
    """Yield links by index, one by one: a host may have hundreds of others. One that has gone meanwhile is left out."""
    for index in sorted(indices):
        try:
            yield from netlink.get_links(index)
        except NetlinkError as error:
            if error.code not in _ABSENT:
                raise


def _id_in(options: nla) -> int:
    """Return the program's id out of a filter's options; pyroute2 does not know this attribute and leaves it raw."""
    for _, value in options["attrs"]:
        if isinstance(value, nla_base) and value["header"]["type"] == _BPF_ID:
            (program,) = struct.unpack_from("=I", value.data, value.offset + _ATTRIBUTE_HEADER)
            return int(program)
    return 0


def _id_of(program: int) -> int:
    """Return the kernel's id of a program by its descriptor."""
    lines = Path(f"/proc/self/fdinfo/{program}").read_text().splitlines()
    return next(int(value) for name, _, value in (line.partition(":") for line in lines) if name == "prog_id")


@contextmanager
def programs(
    name: str, *, priority: int = 1, way: Way = Way.LEAVING, only: frozenset[int] | None = None
) -> Iterator[Egress]:
    """Look at the programs called ``name``, to change where they are.

    Args:
        name: of the programs.
        priority: of those that are attached: programs of other names have others; the smallest is asked first.
        way: which packets they see.
        only: indices of the links to look at; ``None``: all.

    Raises:
        OSError: the kernel refuses something; what was done before stays.
    """
    with opened(f"egress programs {name}") as netlink:
        yield Egress(netlink, name, priority, way, only)
