"""What applications see of a direct connection is what they see of plain TCP, call by call.

The calls are those in which a connection whose bytes skip TCP inside the kernel differs (sockmap); this one skips none.
"""

import asyncio
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import namespaced
from tests.support.direct import connected, direct_mesh
from tests.support.waiting import scaled, until

pytestmark = pytest.mark.root

Ends = tuple[socket.socket, socket.socket]
"""Client and server, both blocking, with a timeout only where a call would hang."""

SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE = 60, 0x4000000, 0x2000
SIOCOUTQ = 0x5411
TIMEOUT = struct.pack("ll", scaled(5).__int__(), 0)


def interrupted_recv(ends: Ends) -> Any:
    """A blocking ``recv`` goes on after a signal whose handler restarts calls, and gets the data."""
    client, server = ends
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16))  # with one, no call is restarted
    library = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(100)
    results: list[tuple[int, int]] = []
    ready = threading.Event()

    def receive() -> None:
        ready.set()
        results.append((library.recv(server.fileno(), buffer, 100, 0), ctypes.get_errno()))

    thread = threading.Thread(target=receive)
    thread.start()
    ready.wait()
    for _ in range(5):
        select.select([], [], [], 0.02)  # so that it sleeps in the kernel
        signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
    client.sendall(b"after the signals")
    thread.join(5)
    return results[0][0], buffer.value


def both_ways_at_once(ends: Ends) -> Any:
    """One thread receives while another one fills the same socket's buffer."""
    client, server = ends
    received: list[int] = []

    def receive() -> None:
        received.append(len(server.recv(10)))

    thread = threading.Thread(target=receive)
    thread.start()
    sent = threading.Thread(target=server.sendall, args=(b"x" * 3_000_000,))
    sent.start()
    total = 0
    while total < 3_000_000:
        total += len(client.recv(1 << 20))
    sent.join()
    client.sendall(b"0123456789")
    thread.join(5)
    return received, total


def splice(ends: Ends) -> Any:
    client, server = ends
    reading, writing = os.pipe()
    try:
        client.sendall(b"spliced bytes")
        moved = os.splice(server.fileno(), writing, 100)
        found = os.read(reading, 100)
        client.shutdown(socket.SHUT_WR)
        return moved, found, os.splice(server.fileno(), writing, 100)
    finally:
        os.close(reading)
        os.close(writing)


def splice_to(ends: Ends) -> Any:
    client, server = ends
    reading, writing = os.pipe()
    try:
        os.write(writing, b"from a pipe")
        return os.splice(reading, client.fileno(), 100), server.recv(100)
    finally:
        os.close(reading)
        os.close(writing)


def waiting_bytes(ends: Ends) -> Any:
    client, server = ends
    client.sendall(b"x" * 1234)
    select.select([server], [], [], 5)
    held = struct.unpack("i", fcntl.ioctl(server, termios.FIONREAD, b"\0" * 4))[0]
    server.recv(234)
    left = struct.unpack("i", fcntl.ioctl(server, termios.FIONREAD, b"\0" * 4))[0]
    return held, left, struct.unpack("i", fcntl.ioctl(client, SIOCOUTQ, b"\0" * 4))[0]


def zero_copy(ends: Ends) -> Any:
    """The kernel tells when it has done with the pages."""
    client, server = ends
    client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    sent = client.send(b"z" * 20_000, MSG_ZEROCOPY)
    received = len(server.recv(sent, socket.MSG_WAITALL))
    poll = select.poll()
    poll.register(client, 0)
    assert poll.poll(5000), "no completion"
    _, control, _, _ = client.recvmsg(0, 100, MSG_ERRQUEUE)
    _, _, data = control[0]
    return sent, received, struct.unpack("IBBBBII", data[:16])[2]


def low_water(ends: Ends) -> Any:
    client, server = ends
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
    client.sendall(b"12345")
    early = select.select([server], [], [], 0.1)[0]
    client.sendall(b"67890")
    late = select.select([server], [], [], 5)[0]
    return bool(early), bool(late), server.recv(100)


def wait_all(ends: Ends) -> Any:
    client, server = ends

    def send() -> None:
        for _ in range(10):
            client.sendall(b"x" * 100)
            select.select([], [], [], 0.005)

    thread = threading.Thread(target=send)
    thread.start()
    got = len(server.recv(1000, socket.MSG_WAITALL))
    thread.join()
    return got


def urgent(ends: Ends) -> Any:
    client, server = ends
    client.sendall(b"normal")
    client.send(b"!", socket.MSG_OOB)
    poll = select.poll()
    poll.register(server, select.POLLPRI)
    seen = poll.poll(5000)
    return bool(seen), server.recv(1, socket.MSG_OOB), server.recv(100)


def discard(ends: Ends) -> Any:
    """``MSG_TRUNC`` throws bytes away without copying them."""
    client, server = ends
    client.sendall(b"0123456789")
    select.select([server], [], [], 5)
    library = ctypes.CDLL(None, use_errno=True)
    return library.recv(server.fileno(), None, 4, socket.MSG_TRUNC), server.recv(100)


def peek(ends: Ends) -> Any:
    client, server = ends
    client.sendall(b"look")
    return server.recv(100, socket.MSG_PEEK), server.recv(100, socket.MSG_PEEK), server.recv(100)


def half_close(ends: Ends) -> Any:
    client, server = ends
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    poll = select.poll()
    poll.register(server, select.POLLIN | select.POLLRDHUP)
    poll.poll(5000)
    received = server.recv(100), server.recv(100)
    server.sendall(b"answer after the end")
    server.close()
    return received, client.recv(100), client.recv(100)


def reset(ends: Ends) -> Any:
    client, server = ends
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return _error(lambda: server.recv(1)), _error(lambda: server.send(b"x"))


def close_with_unread_bytes(ends: Ends) -> Any:
    client, server = ends
    client.sendall(b"never read")
    select.select([server], [], [], 5)
    server.close()
    select.select([client], [], [], 5)
    return _error(lambda: client.recv(1)), _error(lambda: client.send(b"x"))


def timeout(ends: Ends) -> Any:
    _, server = ends
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
    return _error(lambda: server.recv(1))


def large_file(ends: Ends) -> Any:
    client, server = ends
    with open("/usr/bin/python3", "rb") as file:  # noqa: PTH123
        size = os.fstat(file.fileno()).st_size
        sender = threading.Thread(target=client.sendfile, args=(file,))
        sender.start()
        got = len(server.recv(size, socket.MSG_WAITALL))
        sender.join()
    return got == size


def names(ends: Ends) -> Any:
    client, server = ends
    seen = client.getsockname(), client.getpeername()
    return client.getpeername()[1], seen == (server.getpeername(), server.getsockname())


def information(ends: Ends) -> Any:
    """State, and that bytes and segments are counted (``struct tcp_info``)."""
    client, server = ends
    client.sendall(b"x" * 1000)
    server.recv(1000, socket.MSG_WAITALL)
    info = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return info[0], struct.unpack_from("Q", info, 128)[0]


CALLS: tuple[Callable[[Ends], Any], ...] = (
    interrupted_recv, both_ways_at_once, splice, splice_to, waiting_bytes, zero_copy, low_water, wait_all, urgent,
    discard, peek, half_close, reset, close_with_unread_bytes, timeout, large_file, names, information,
)  # fmt: skip


class Paths:
    """Two pods with a direct connection, and two pods outside of the mesh."""

    def __init__(
        self, direct: tuple[namespaced.Pod, namespaced.Pod], plain: tuple[namespaced.Pod, namespaced.Pod]
    ) -> None:
        self._pods = {"direct": direct, "plain": plain}

    def run(self, path: str, call: Callable[[Ends], Any]) -> Any:
        client_pod, server_pod = self._pods[path]
        family = socket.AF_INET6 if ":" in server_pod.ip else socket.AF_INET
        made = server_pod.in_namespace(lambda: socket.create_server((server_pod.ip, 9090), family=family))
        with made as listener:
            client = connected(client_pod, server_pod.ip, 9090)
            server, _ = listener.accept()
        with client, server:
            for one in (client, server):
                one.settimeout(None)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEOUT)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return call((client, server))


@pytest.fixture(scope="module", params=["10.77.0.0/24", "fd77::/64"], ids=["ipv4", "ipv6"])
def results(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """Of every call on each path."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    try:
        return asyncio.run(_run_all(request.param))
    finally:
        signal.signal(signal.SIGUSR1, before)


async def _run_all(subnet: str) -> dict[str, dict[str, Any]]:
    async with direct_mesh(subnet) as direct:
        client, server = await direct.pair()
        outside = (
            await direct.mesh.pod("out-server", captured=False),
            await direct.mesh.pod("out-client", captured=False),
        )
        paths = Paths((client, server), (outside[1], outside[0]))
        await asyncio.to_thread(paths.run, "direct", names)  # through the tunnel: the pair is learned
        await until(lambda: direct.open() == 0)
        before = direct.count("connected")
        found = {
            call.__name__: {path: await asyncio.to_thread(paths.run, path, call) for path in ("plain", "direct")}
            for call in CALLS
        }
        assert direct.count("connected") == before + len(CALLS), "none of them went through the tunnel"
        return found


@pytest.mark.parametrize("call", [call.__name__ for call in CALLS])
def test_a_call_has_the_same_result_as_on_plain_tcp(results: dict[str, dict[str, Any]], call: str) -> None:
    assert results[call]["direct"] == results[call]["plain"]


def test_what_plain_tcp_does_is_what_these_calls_are_about(results: dict[str, dict[str, Any]]) -> None:
    """So that an equal failure of both does not pass for an equal result."""
    plain = {call: found["plain"] for call, found in results.items()}
    assert plain["interrupted_recv"] == (17, b"after the signals")
    assert plain["splice"] == (13, b"spliced bytes", 0)
    assert plain["waiting_bytes"] == (1234, 1000, 0)
    assert plain["low_water"] == (False, True, b"1234567890")
    assert plain["wait_all"] == 1000
    assert plain["urgent"] == (True, b"!", b"normal")
    assert plain["reset"][0] == errno.ECONNRESET
    assert plain["close_with_unread_bytes"][0] == errno.ECONNRESET
    assert plain["timeout"] == errno.EAGAIN
    assert plain["information"][1] == 1000


def _error(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return error.errno
