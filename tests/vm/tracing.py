"""What ``culvert trace`` says about connections through a real tunnel, on the kernel of the machine.

Two pods on two nodes, their applications in processes of their own: two connections that are carried, one that a policy
refuses, one to a port where nobody listens. Run inside the machine: ``python -m tests.vm.tracing FOLDER OPTION...``.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from meshapi.proto import authorization_pb2
from meshkit.linux import netns
from meshproxy.access_log_feed import AccessLogFeed
from tests.support import backends, namespaced
from tests.support.waiting import until

_SERVER = """
import socket
listener = socket.create_server(("", 8080))
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(connection.recv(100))
    connection.close()
"""
_CLIENT = """
import socket, sys
try:
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
    connection.sendall(b"hello"); print(connection.recv(100))
    connection.recv(1); connection.close()
except OSError as error: print(type(error).__name__)
"""
_STARTED_WITHIN_S = 300
_ENDED_WITHIN_S = 90


async def main(folder: Path, options: list[str]) -> None:
    """Make the connections while they are traced; leaves ``trace.out`` and ``trace.err``."""
    with TemporaryDirectory() as scratch:
        backend = backends.backend("nftables", Path(scratch) / "lock").pods
        async with namespaced.mesh("10.77.0.0/24", backend=backend) as mesh:
            server, client = await mesh.pod("server", node=1), await mesh.pod("client")
            path = Path(scratch) / "access-log.sock"
            async with _fed(path, mesh.nodes), _running(server, _SERVER), _traced(folder, path, options):
                for _ in range(2):  # the second finds a tunnel that is open
                    await _request(client, server.ip, 8080)
                caller = authorization_pb2.StringMatch(exact=client.identity.removeprefix("spiffe://"))
                mesh.deny("nobody", principals=[caller], destination_ports=[8080])
                await _request(client, server.ip, 8080)
                await _request(client, server.ip, 8081)


@asynccontextmanager
async def _fed(path: Path, nodes: list[namespaced.Node]) -> AsyncIterator[None]:
    """Offer the access logs of the nodes' engines, as ztunnel does."""
    feed = AccessLogFeed(path)
    serving = asyncio.create_task(feed.run())
    for node in nodes:
        node.readers.append(feed.offer)
    await until(path.exists)
    yield
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


@asynccontextmanager
async def _running(pod: namespaced.Pod, program: str) -> AsyncIterator[None]:
    command = ["nsenter", f"--net={netns.path(pod.netns)}", sys.executable, "-c", program]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    yield
    process.kill()
    await process.wait()


@asynccontextmanager
async def _traced(folder: Path, path: Path, options: list[str]) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "meshctl", "trace", f"--access-log={path}", *options]
    with (folder / "trace.out").open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        said = b""
        async with asyncio.timeout(_STARTED_WITHIN_S):
            while b"ctrl-c" not in said:
                line = await process.stderr.readline()
                assert line, said.decode()
                said += line
        yield
        try:
            _, rest = await asyncio.wait_for(process.communicate(), _ENDED_WITHIN_S)
        except TimeoutError:
            process.kill()
            _, rest = await process.communicate()
        (folder / "trace.err").write_bytes(said + rest)


async def _request(client: namespaced.Pod, ip: str, port: int) -> None:
    command = ["nsenter", f"--net={netns.path(client.netns)}", sys.executable, "-c", _CLIENT, ip, str(port)]
    process = await asyncio.create_subprocess_exec(*command)
    await process.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
