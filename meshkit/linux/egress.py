"""BPF programs on what leaves links, in the namespace that the calling thread is in (see ``netns.run``).

Attached as filters of traffic control, which every kernel with BPF has, first in line. They stay until they are
detached or their link is removed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pyroute2 import IPRoute, NetlinkError

from meshkit.linux.netlink import opened

_EGRESS: Final = 0xFFFFFFF3  # TC_H_CLSACT with TC_H_MIN_EGRESS
_INGRESS: Final = 0xFFFFFFF2
_FIRST: Final = 1
_EXISTS: Final = 17
_ABSENT: Final = (2, 19, 22)
"""ENOENT, ENODEV, EINVAL (no such queue): it is not there, which is what a removal wants."""


class Egress:
    """The links of a namespace, and on which of them the program of a name is.

    Attributes:
        links: names of all links.
        attached: names of those that have the program.
    """

    def __init__(self, netlink: IPRoute, name: str) -> None:
        self._netlink = netlink
        self._name = name
        self._indices = {link.get_attr("IFLA_IFNAME"): link["index"] for link in netlink.get_links()}
        self.links = frozenset(self._indices)
        self.attached = frozenset(link for link, index in self._indices.items() if self._has(index))

    def attach(self, link: str, program: int) -> None:
        """Put a program on a link that has none of the name.

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
        what = {"fd": program, "name": self._name, "direct_action": True, "classid": _FIRST}
        self._netlink.tc("add-filter", "bpf", index, f":{_FIRST}", parent=_EGRESS, prio=_FIRST, **what)

    def detach(self, link: str) -> None:
        """Take the program off a link that has it; what others have put there stays.

        Raises:
            NetlinkError: the program may still be there.
        """
        index = self._indices[link]
        try:
            self._netlink.tc("del-filter", "bpf", index, f":{_FIRST}", parent=_EGRESS, prio=_FIRST)
            if not any(self._netlink.get_filters(index=index, parent=parent) for parent in (_EGRESS, _INGRESS)):
                self._netlink.tc("del", "clsact", index)
        except NetlinkError as error:
            if error.code not in _ABSENT:
                raise

    def _has(self, index: int) -> bool:
        for message in self._netlink.get_filters(index=index, parent=_EGRESS):
            options = message.get_attr("TCA_OPTIONS")
            if options is not None and options.get_attr("TCA_BPF_NAME") == self._name:
                return True
        return False


@contextmanager
def programs(name: str) -> Iterator[Egress]:
    """Look at the programs called ``name``, to change where they are.

    Raises:
        OSError: the kernel refuses something; what was done before stays.
    """
    with opened(f"egress programs {name}") as netlink:
        yield Egress(netlink, name)
