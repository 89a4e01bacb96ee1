"""When a terminating proxy may stop accepting: once another process listens in every pod that it serves.

Both processes share the ports of a pod (SO_REUSEPORT), so the old one may go on accepting for as long as it likes; what
must not happen is a moment in which no process accepts. The kernel shows whether a successor listens: it lists the
listening sockets of a namespace: neither the successor nor the node agent has to know of this, so it works beside
Istio's. The alternative, a word of the node agent over ZDS, would need a message that Istio's does not have.

A listener counts for all that follows from it: a ztunnel of ours opens none before it knows the state of the mesh.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Final

from meshkit.linux import netns, sockets
from meshkit.log import logger

_log = logger("handover")
_LOOK_S: Final = 0.1


async def wait_for_successor(namespaces: Callable[[], Mapping[str, int]], timeout_s: float, *, ports: Set[int]) -> bool:
    """Wait until another process listens in every namespace; false when there is none within ``timeout_s`` seconds.

    Args:
        namespaces: gives the workloads that are served now, by name, and descriptors of their namespaces.
        timeout_s: how long to wait.
        ports: on which the process listens in each namespace.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while missing := await _unserved(namespaces(), ports):
        if loop.time() >= deadline:
            _log.warning("no successor serves yet", workloads=len(missing), first=min(missing), waited_s=timeout_s)
            return False
        await asyncio.sleep(_LOOK_S)
    return True


async def _unserved(namespaces: Mapping[str, int], ports: Set[int]) -> list[str]:
    # Duplicated, because a workload may be removed, and its descriptor closed, while a thread looks.
    held = {name: os.dup(descriptor) for name, descriptor in namespaces.items()}
    try:
        return await asyncio.to_thread(_without_foreign_listeners, held, ports)
    finally:
        for descriptor in held.values():
            os.close(descriptor)


def _without_foreign_listeners(namespaces: Mapping[str, int], ports: Set[int]) -> list[str]:
    found = {
        name: netns.run(descriptor, lambda: sockets.listeners_on(ports)) for name, descriptor in namespaces.items()
    }
    # Read afterwards: a listener that this process opens in between must not pass for a successor's.
    own = sockets.own_inodes()
    return [name for name, listeners in found.items() if not _complete(listeners, own, ports)]


def _complete(listeners: Iterable[sockets.Listener], own: Set[int], ports: Set[int]) -> bool:
    return {listener.port for listener in listeners if listener.inode not in own} >= ports
