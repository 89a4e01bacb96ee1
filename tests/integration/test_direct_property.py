"""One meaning of policy: the plain model, the engine's verdict and what the kernel does with a connection agree.

Random policies arrive and go; between them, two pods connect to each other, with real sockets.
"""

import asyncio
import ipaddress
import itertools
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshapi import names
from meshapi.identity import SpiffeId
from meshapi.proto import authorization_pb2 as pb
from meshapi.proto import engine_pb2
from tests.property import strategies
from tests.support import authorization_model as model
from tests.support import namespaced
from tests.support.direct import connected, direct_mesh

pytestmark = pytest.mark.root

PORTS = (80, 8080)
NAMESPACE = "shop"
KEYS = [f"{namespace}/{name}" for namespace in strategies.NAMESPACES[:2] for name in "abcd"]


class Neighbours:
    """Two pods that know each other, with the names that generated policies have; every pair is learned."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stop = asyncio.Event()
        self._made: asyncio.Future[None] | None = None
        self._policies: dict[str, pb.Authorization] = {}
        ready = threading.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._live(ready), self._loop)
        while not ready.wait(0.1):
            if self._task.done():
                self._task.result()

    async def _live(self, ready: threading.Event) -> None:
        async with direct_mesh("10.0.0.0/24") as self.direct:
            self.pods = [await self.direct.mesh.pod(name) for name in ("web", "web-2")]
            for pod, port in itertools.product(self.pods, PORTS):
                await pod.serve_peer(port)
            for client, server, port in self.pairs():
                await self.direct.learn(client, server.ip, port)
            ready.set()
            await self._stop.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._task.result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def pairs(self) -> list[tuple[namespaced.Pod, namespaced.Pod, int]]:
        first, second = self.pods
        return [(one, other, port) for one, other in ((first, second), (second, first)) for port in PORTS]

    def replace(self, policies: list[pb.Authorization]) -> None:
        self._policies = {f"{one.namespace}/{one.name}": one for one in policies if model.is_acceptable(one)}
        upserts = [(key, one.SerializeToString()) for key, one in self._policies.items()]
        gone = [key for key in KEYS if key not in self._policies]
        self.direct.engine.apply(names.AUTHORIZATION_TYPE, upserts, gone)

    def expected(self, client: namespaced.Pod, server: namespaced.Pod, port: int) -> bool:
        connection = model.Connection(
            SpiffeId("cluster.local", client.namespace, client.account),
            ipaddress.ip_address(client.ip), ipaddress.ip_address(server.ip), port,
        )  # fmt: skip
        return model.evaluate(self._policies, NAMESPACE, [], connection).allowed

    def authorized(self, client: namespaced.Pod, server: namespaced.Pod, port: int) -> bool:
        uid = f"Kubernetes//Pod/{server.namespace}/{server.name}"
        packed = self.direct.engine.authorize(uid, client.identity, client.ip, server.ip, port)
        return engine_pb2.Verdict.FromString(packed).allowed

    def is_direct(self, client: namespaced.Pod, server: namespaced.Pod, port: int) -> bool:
        """What the kernel does: a connection that it sends to the tunnel is accepted there, whatever policy says."""
        before = self.direct.count("connected")
        connected(client, server.ip, port, socket.AF_INET).close()
        return self.direct.count("connected") > before


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Neighbours]:
    made = Neighbours()
    yield made
    made.close()


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.lists(strategies.policies, max_size=3), min_size=1, max_size=3))
def test_model_engine_and_kernel_have_one_answer(neighbours: Neighbours, changes: list[list[pb.Authorization]]) -> None:
    for policies in changes:
        neighbours.replace(policies)
        for pair in neighbours.pairs():
            expected = neighbours.expected(*pair)
            assert (neighbours.authorized(*pair), neighbours.is_direct(*pair)) == (expected, expected)
