"""BPF programs on what leaves links, in the namespace that the calling thread is in (see ``netns.run``).

Attached as filters of traffic control, which every kernel with BPF has, first in line. They stay until they are
detached or their link is gone, whoever attached them.
"""

from typing import Final

from pyroute2 import IPRoute, NetlinkError

from meshkit.linux.netlink import opened

_EGRESS: Final = 0xFFFFFFF3  # TC_H_CLSACT with TC_H_MIN_EGRESS
_INGRESS: Final = 0xFFFFFFF2
_FIRST: Final = 1
_EXISTS: Final = 17
_ABSENT: Final = (2, 19, 22)
"""ENOENT, ENODEV, EINVAL (no such queue): it is not there, which is what a removal wants."""


def attached(name: str) -> frozenset[str]:
    """Return the names of the links that have a program called ``name``."""
    with opened("egress programs") as netlink:
        return frozenset(
            link.get_attr("IFLA_IFNAME") for link in netlink.get_links() if _has(netlink, link["index"], _EGRESS, name)
        )


def attach(link: str, program: int, name: str) -> None:
    """Put a program on a link that has none called ``name``.

    Args:
        link: name of the link.
        program: descriptor of a program of type SCHED_CLS; stays the caller's.
        name: to find it by.

    Raises:
        OSError: the link is as it was, or has an empty queue for programs.
    """
    with opened(f"egress program {name} on {link}") as netlink:
        index = _index(netlink, link)
        try:
            netlink.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != _EXISTS:
                raise
        what = {"fd": program, "name": name, "direct_action": True, "classid": _FIRST}
        netlink.tc("add-filter", "bpf", index, f":{_FIRST}", parent=_EGRESS, prio=_FIRST, **what)


def detach(link: str, name: str) -> None:
    """Take a program off a link; what is not there is no error, and what others have put there stays."""
    with opened(f"egress program {name} on {link}") as netlink:
        try:
            index = _index(netlink, link)
            if _has(netlink, index, _EGRESS, name):
                netlink.tc("del-filter", "bpf", index, f":{_FIRST}", parent=_EGRESS, prio=_FIRST)
            if not any(netlink.get_filters(index=index, parent=parent) for parent in (_EGRESS, _INGRESS)):
                netlink.tc("del", "clsact", index)
        except NetlinkError as error:
            if error.code not in _ABSENT:
                raise
        except FileNotFoundError:
            return


def _has(netlink: IPRoute, index: int, parent: int, name: str) -> bool:
    for message in netlink.get_filters(index=index, parent=parent):
        options = message.get_attr("TCA_OPTIONS")
        if options is not None and options.get_attr("TCA_BPF_NAME") == name:
            return True
    return False


def _index(netlink: IPRoute, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise FileNotFoundError(f"no link named {name}")
    return int(found[0])
