"""SDS over a Unix socket: our server with our client, and both protocol variants."""

import asyncio
import stat
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc

from meshapi import names
from meshkit.tasks import Backoff
from meshkit.xds import client, sds, serving
from meshkit.xds.errors import BadSecret
from meshkit.xds.source import Listener, Resource
from tests.support.waiting import until

NAME = "spiffe://cluster.local/ns/shop/sa/web"


class Secrets:
    announces_missing = False

    def __init__(self) -> None:
        self.held: dict[str, Resource] = {}
        self.listeners: list[Listener] = []
        self.subscribed: set[str] = set()

    def put(self, name: str, secret: sds.KeyPair | sds.TrustBundle, version: str) -> None:
        self.held[name] = Resource(name, version, secret.encode(name))
        for listener in list(self.listeners):
            listener(names.SECRET_TYPE, {name})

    def serves(self, type_url: str) -> bool:
        return type_url == names.SECRET_TYPE

    def lookup(self, type_url: str, name: str) -> Resource | None:
        return self.held.get(name)

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        return [self.held[name]] if name in self.held else []

    def all(self, type_url: str) -> Collection[Resource]:
        return self.held.values()

    def watch(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        self.subscribed |= names


class Receiver:
    def __init__(self) -> None:
        self.held: dict[str, sds.KeyPair | sds.TrustBundle] = {}

    async def on_update(
        self, type_url: str, upserts: list[tuple[str, str, bytes]], removes: list[str]
    ) -> Sequence[client.Rejection]:
        refused = []
        for name, _, body in upserts:
            try:
                self.held[name] = sds.decode(body)
            except BadSecret as error:
                refused.append(client.Rejection(name, str(error)))
        return refused


async def test_client_follows_secrets_and_finds_a_restarted_server(tmp_path: Path) -> None:
    path = tmp_path / "sds.sock"
    source, seen = Secrets(), Receiver()
    source.put(names.ROOT_SECRET_NAME, sds.TrustBundle(b"roots"), "1")
    follower = client.DeltaClient(
        connect=client.unix_channel(path),
        node=client.NodeInfo("ztunnel"),
        subscriptions={names.SECRET_TYPE: []},
        receiver=seen,
        service=client.Service.SECRETS,
        backoff=Backoff(first_s=0.01, cap_s=0.05),
    )
    follower.subscribe(names.SECRET_TYPE, [names.ROOT_SECRET_NAME])
    task = asyncio.create_task(follower.run())
    try:
        async with serving.serve_unix(path, [sds.SecretDiscovery(source)], mode=0o640):
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            await until(lambda: seen.held.get(names.ROOT_SECRET_NAME) == sds.TrustBundle(b"roots"))
            follower.subscribe(names.SECRET_TYPE, [NAME])
            await until(lambda: NAME in source.subscribed)
            source.put(NAME, sds.KeyPair(b"chain", b"key"), "1")
            await until(lambda: seen.held.get(NAME) == sds.KeyPair(b"chain", b"key"))
        assert not path.exists()
        source.put(NAME, sds.KeyPair(b"chain 2", b"key 2"), "2")
        async with serving.serve_unix(path, [sds.SecretDiscovery(source)]):
            await until(lambda: seen.held.get(NAME) == sds.KeyPair(b"chain 2", b"key 2"))
            follower.unsubscribe(names.SECRET_TYPE, [NAME])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_state_of_the_world_stream(tmp_path: Path) -> None:
    path = tmp_path / "sds.sock"
    source = Secrets()
    source.put(NAME, sds.KeyPair(b"chain", b"key"), "1")
    async with serving.serve_unix(path, [sds.SecretDiscovery(source)]), client.unix_channel(path)() as channel:
        call = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
        request = discovery_pb2.DiscoveryRequest(type_url=names.SECRET_TYPE, resource_names=[NAME])
        await call.write(request)
        first = await asyncio.wait_for(call.read(), 5)
        assert sds.decode(first.resources[0].value) == sds.KeyPair(b"chain", b"key")
        request.response_nonce, request.version_info = first.nonce, first.version_info
        await call.write(request)
        source.put(NAME, sds.KeyPair(b"chain 2", b"key"), "2")
        second = await asyncio.wait_for(call.read(), 5)
        assert second.version_info != first.version_info
        await call.done_writing()


async def test_fetching_is_refused_and_foreign_files_are_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "sds.sock"
    async with serving.serve_unix(path, [sds.SecretDiscovery(Secrets())]), client.unix_channel(path)() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sds_pb2_grpc.SecretDiscoveryServiceStub(channel).FetchSecrets(discovery_pb2.DiscoveryRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        async with serving.serve_unix(path, []):
            pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize("body", [b"", b"\xff\xff", sds.KeyPair(b"chain", b"").encode("x")])
def test_secret_without_content_is_refused(body: bytes) -> None:
    with pytest.raises(BadSecret):
        sds.decode(body)


def test_client_imports_neither_kubernetes_nor_pydantic() -> None:
    heavy = ("pydantic", "kubernetes_asyncio")
    code = f"import sys, meshkit.xds.client, meshkit.xds.sds; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
