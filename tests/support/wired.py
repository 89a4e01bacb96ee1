"""Two namespaces with a wire between them, and sockets in both: nothing of a mesh."""

import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from meshkit.linux import links, netns
from tests.support.waiting import scaled

_TIMEOUT_S = scaled(5.0)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def shell(space: int | Path, command: str) -> str:
    """Run a command in a namespace and return what it writes; a failure is one."""

    def work() -> str:
        return subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout

    return netns.run(space, work)


@dataclass(frozen=True)
class Wired:
    """``first`` has 10.78.0.1 and fd78::1, ``second`` has 10.78.0.2 and fd78::2; the link is ``eth0`` in both."""

    first: Path
    second: Path

    def listen(self, space: Path, port: int, address: str = "") -> socket.socket:
        """Listen in a namespace, by default at all addresses of both families."""

        def work() -> socket.socket:
            if address:
                return socket.create_server((address, port), family=_family(address))
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

        made = netns.run(space, work)
        made.settimeout(_TIMEOUT_S)
        return made

    def connect(self, space: Path, address: str, port: int) -> socket.socket:
        """Open a connection from a namespace."""
        return netns.run(space, lambda: socket.create_connection((address, port), timeout=_TIMEOUT_S))

    def request(self, space: Path, address: str, port: int) -> str:
        """Open a connection and return the answer."""
        with self.connect(space, address, port) as client:
            return client.recv(100).decode()

    @contextmanager
    def answering(self, space: Path, port: int, answer: str, *, mark: int = 0) -> Iterator[None]:
        """Send ``answer`` on every connection to a port, and keep it open."""
        listener = self.listen(space, port)
        if mark:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        accepted: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    one, _ = listener.accept()
                except OSError:
                    return
                accepted.append(one)
                one.sendall(answer.encode())

        with _served(listener, serve):
            yield
        for one in accepted:
            one.close()

    def datagrams(self, space: Path, address: str, *, mark: int = 0) -> socket.socket:
        """Open a socket for datagrams to an address."""

        def work() -> socket.socket:
            made = socket.socket(_family(address), socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            made.settimeout(_TIMEOUT_S)
            return made

        return netns.run(space, work)

    def exchange(self, client: socket.socket, address: str, port: int) -> str:
        """Send a datagram and return the answer, which must come from where it was sent to."""
        client.sendto(b"question", (address, port))
        answer, peer = client.recvfrom(100)
        assert peer[:2] == (address, port)
        return answer.decode()

    def request_datagram(self, space: Path, address: str, port: int) -> str:
        """Send a datagram from a new socket and return the answer."""
        with self.datagrams(space, address) as client:
            return self.exchange(client, address, port)

    @contextmanager
    def answering_datagrams(
        self, space: Path, port: int, answer: str, *, at: str = "::", mark: int = 0
    ) -> Iterator[None]:
        """Send ``answer`` for every datagram to a port."""

        def work() -> socket.socket:
            made = socket.socket(_family(at), socket.SOCK_DGRAM)
            if at == "::":
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            made.bind((at, port))
            return made

        listener = netns.run(space, work)

        def serve() -> None:
            while True:
                _, peer = listener.recvfrom(100)
                if peer is None:  # shut down
                    return
                listener.sendto(answer.encode(), peer)

        with _served(listener, serve):
            yield


@contextmanager
def _served(listener: socket.socket, serve: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        # Closing does not wake a thread that waits in accept or recvfrom; shutdown does.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(_TIMEOUT_S)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def wired() -> Iterator[Wired]:
    """Make two namespaces, removed at the end."""
    prefix = f"cw{uuid.uuid4().hex[:6]}"
    spaces = [netns.create(f"{prefix}{number}") for number in (1, 2)]
    try:
        descriptor = os.open(spaces[1], os.O_RDONLY)
        try:
            netns.run(spaces[0], lambda: _pair(descriptor))
        finally:
            os.close(descriptor)
        for number, space in enumerate(spaces, start=1):
            netns.run(space, lambda number=number: _configure(number))
        yield Wired(*spaces)
    finally:
        for number in (1, 2):
            netns.delete(f"{prefix}{number}")


def _pair(peer: int) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link("add", ifname="eth0", kind="veth", peer={"ifname": "eth0", "net_ns_fd": peer})


def _configure(number: int) -> None:
    for link in ("lo", "eth0"):
        links.set_up(link)
    for address in (f"10.78.0.{number}/24", f"fd78::{number}/64"):
        links.add_address("eth0", ip_interface(address))
