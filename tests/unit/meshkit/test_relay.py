"""The relay of discovery streams: bytes as they are, the token of every call, and ends that reach both sides."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from meshkit.tasks import Backoff
from meshkit.xds import client, serving
from meshkit.xds.relay import Relay

METHOD = client.Service.AGGREGATED.value


class Upstream:
    """Answers each message with its own bytes; ends the stream after ``"end"``."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def _serve(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        metadata = dict(context.invocation_metadata() or ())
        self.tokens.append(str(metadata["authorization"]))
        async for request in requests:
            if request == b"end":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
            yield request

    def add_to(self, server: grpc.aio.Server) -> None:
        service, method = METHOD.lstrip("/").split("/")
        handlers = {method: grpc.stream_stream_rpc_method_handler(self._serve)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


@contextlib.asynccontextmanager
async def relayed(folder: Path) -> AsyncIterator[tuple[Relay, grpc.aio.Channel, list[str]]]:
    """A relay to ``up``, a channel to it, and the tokens that it shows one after the other."""
    tokens = ["first", "second"]
    relay = Relay(
        client.unix_channel(folder / "up"),
        lambda: (("authorization", tokens[0]),),
        lambda: Backoff(first_s=0.01, cap_s=0.05),
    )
    async with serving.serve_unix(folder / "down", [relay]):
        channel = client.unix_channel(folder / "down")()
        yield relay, channel, tokens
        await channel.close()


async def test_messages_pass_unchanged_in_both_directions_with_the_present_token(tmp_path: Path) -> None:
    upstream = Upstream()
    async with serving.serve_unix(tmp_path / "up", [upstream]), relayed(tmp_path) as (relay, channel, tokens):
        for _ in range(2):
            call = channel.stream_stream(METHOD)()
            for message in (b"\xff\x00not a message", b"", b"x" * 5_000_000):
                await call.write(message)
                assert await call.read() == message
            assert relay.connected
            call.cancel()
            tokens.pop(0)
        assert upstream.tokens == ["first", "second"]


async def test_a_stream_waits_for_a_control_plane_that_is_not_there_yet(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (_, channel, __):
        call = channel.stream_stream(METHOD)()
        await call.write(b"hello")
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0)
        assert not reading.done()
        async with serving.serve_unix(tmp_path / "up", [Upstream()]):
            assert await asyncio.wait_for(reading, 5) == b"hello"


async def test_the_end_upstream_ends_the_stream_with_its_reason(tmp_path: Path) -> None:
    async with serving.serve_unix(tmp_path / "up", [Upstream()]), relayed(tmp_path) as (relay, channel, _):
        call = channel.stream_stream(METHOD)()
        await call.write(b"end")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(call.read(), 5)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ended.value.details() == "RESOURCE_EXHAUSTED: too many"
        assert not relay.connected


async def test_the_end_downstream_ends_the_stream_upstream(tmp_path: Path) -> None:
    ended = asyncio.Event()

    class Noticing(Upstream):
        async def _serve(
            self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
        ) -> AsyncIterator[bytes]:
            try:
                async for answer in super()._serve(requests, context):
                    yield answer
            finally:
                ended.set()

    async with serving.serve_unix(tmp_path / "up", [Noticing()]), relayed(tmp_path) as (_, channel, __):
        call = channel.stream_stream(METHOD)()
        await call.write(discovery_pb2.DeltaDiscoveryRequest().SerializeToString() or b"x")
        await call.read()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
