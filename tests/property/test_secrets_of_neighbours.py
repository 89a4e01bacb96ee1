"""Whatever a server of secrets, a client of one, or the CA sends: valid secrets stay in force, and later valid ones are
taken. Raw bytes as gRPC messages, and messages with arbitrary secrets."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshapi import names
from meshapi.identity import SpiffeId
from meshapi.proto import engine_pb2
from meshengine import Engine
from meshkit.secrets.ca_client import CaClient, CaUnavailable
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.request import BadCertificate
from meshkit.xds import client, sds, serving
from meshproxy.certificates import Certificates
from tests.support.authority import TestAuthority
from tests.support.certificates import Issuer
from tests.support.taking import TakingEngine
from tests.support.waiting import until
from tests.support.ztunnels import LocalIssuer

WEB, OTHER = (f"spiffe://cluster.local/ns/shop/sa/{name}" for name in ("web", "other"))
AUTHORITY, ISSUER = TestAuthority(), Issuer.root()
CHAIN, KEY = AUTHORITY.issue(WEB)
PARTS = [AUTHORITY.roots, TestAuthority().roots, CHAIN, KEY, ISSUER.revoking(7), b"", b"\0", b"\xff", b"-----BEGIN "]


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """PEM of the right or of another kind, one or several, with some bytes changed or cut off."""
    text = bytearray(b"".join(draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3))))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=2)):
        if text:
            text[at % len(text)] = value
    return bytes(text[: draw(st.integers(0, len(text)) | st.just(len(text)))])


pems = st.one_of(st.sampled_from(PARTS), texts())
secrets = st.one_of(
    st.builds(sds.KeyPair, pems, pems).map(lambda pair: pair.encode(WEB)),
    st.builds(sds.TrustBundle, pems, pems).map(lambda bundle: bundle.encode(names.ROOT_SECRET_NAME)),
    st.binary(max_size=40),
)
named = st.sampled_from([WEB, WEB, names.ROOT_SECRET_NAME, names.ROOT_SECRET_NAME, OTHER, "", "\0", "x" * 300])
updates = st.lists(
    st.tuples(st.lists(st.tuples(named, st.just("1"), secrets), max_size=3), st.lists(named, max_size=2)), max_size=4
)

Update = tuple[list[tuple[str, str, bytes]], list[str]]


def unreachable() -> grpc.aio.Channel:
    raise OSError("nothing is connected here")


def good(version: str) -> list[tuple[str, str, bytes]]:
    roots = sds.TrustBundle(AUTHORITY.roots, ISSUER.revoking(8)).encode(names.ROOT_SECRET_NAME)
    return [(names.ROOT_SECRET_NAME, version, roots), (WEB, version, sds.KeyPair(CHAIN, KEY).encode(WEB))]


@settings(max_examples=300, deadline=None)
@given(updates)
def test_any_secret_of_a_server_is_accepted_or_rejected_and_those_in_force_are_valid(received: list[Update]) -> None:
    engine = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    taking = TakingEngine(engine)
    certificates = Certificates(taking, unreachable, client.NodeInfo("test"))
    certificates.want(WEB)

    async def take() -> None:
        assert await certificates.on_update(names.SECRET_TYPE, good("1"), []) == []
        for upserts, removes in received:
            refused = await certificates.on_update(names.SECRET_TYPE, upserts, removes)
            assert {one.name for one in refused} <= {name for name, _, _ in upserts}
            # The engine takes what it holds again, whatever came.
            assert set(taking.pairs) == {WEB}
            engine.set_certificate(WEB, *taking.pairs[WEB])
            engine.set_trust_bundle(certificates._roots)
            engine.set_revocation_lists(certificates._crl)
        assert await certificates.on_update(names.SECRET_TYPE, good("2"), []) == []

    asyncio.run(take())
    engine.close()


async def answered(path: Path, messages: Sequence[bytes]) -> None:
    """Send these bytes to ztunnel's secret client, each on a stream of its own; then valid secrets."""
    waiting = list(messages)
    taken: list[discovery_pb2.DeltaDiscoveryRequest] = []

    async def stream(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await anext(aiter(requests))
        if waiting:
            await context.write(waiting.pop(0))
            # What can be read is answered; what cannot is hung up on.
            async for _ in requests:
                break
            return
        await context.write(response((names.SECRET_TYPE, good("3"), [])))
        async for body in requests:
            taken.append(discovery_pb2.DeltaDiscoveryRequest.FromString(body))  # noqa: PERF401 - looked at meanwhile

    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(stream)
    service = "envoy.service.secret.v3.SecretDiscoveryService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"DeltaSecrets": method}),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    engine = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    taking = TakingEngine(engine)
    certificates = Certificates(taking, client.unix_channel(path), client.NodeInfo("test"))
    certificates.want(WEB)
    task = asyncio.create_task(certificates.run())
    await until(lambda: any(one.response_nonce for one in taken) or task.done(), within_s=20)
    assert not task.done(), task.exception()
    assert not any(one.HasField("error_detail") for one in taken)
    assert taking.pairs == {WEB: (CHAIN, KEY)}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    engine.close()
    await server.stop(0)


def response(parts: tuple[str, list[tuple[str, str, bytes]], list[str]]) -> bytes:
    type_url, resources, removes = parts
    message = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce="n", removed_resources=removes)
    for name, version, body in resources:
        message.resources.add(name=name, version=version, resource=any_pb2.Any(value=body))
    return message.SerializeToString()


responses = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.tuples(
        st.sampled_from([names.SECRET_TYPE, names.SECRET_TYPE, names.ADDRESS_TYPE, "", "x"]),
        st.lists(st.tuples(named, st.just("1"), secrets), max_size=2),
        st.lists(named, max_size=2),
    ).map(response),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(responses, min_size=1, max_size=4))
def test_any_bytes_of_a_secret_server_end_in_a_rejection_or_a_new_stream(messages: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(answered(Path(folder) / "sds", messages))


async def served(path: Path, messages: Sequence[bytes], method: str) -> None:
    """Send these bytes to a node agent's secret server on one stream; another client is still served."""
    keeper = SecretManager(LocalIssuer(AUTHORITY))
    keeper.acquire(SpiffeId.parse(WEB))
    async with serving.serve_unix(path, [sds.SecretDiscovery(keeper)]), client.unix_channel(path)() as channel:
        call = channel.stream_stream(f"/envoy.service.secret.v3.SecretDiscoveryService/{method}")()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for message in messages:
                await call.write(message)
        engine = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
        taking = TakingEngine(engine)
        certificates = Certificates(taking, client.unix_channel(path), client.NodeInfo("test"))
        certificates.want(WEB)
        task = asyncio.create_task(certificates.run())
        await until(lambda: WEB in taking.pairs and taking.roots is not None, within_s=20)
        call.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        engine.close()
        await until(lambda: not keeper._listeners, within_s=20)
    await keeper.close()


requests = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.builds(
        discovery_pb2.DeltaDiscoveryRequest,
        type_url=st.sampled_from([names.SECRET_TYPE, names.SECRET_TYPE, "", "x"]),
        resource_names_subscribe=st.lists(named, max_size=3),
        resource_names_unsubscribe=st.lists(named, max_size=3),
        initial_resource_versions=st.dictionaries(named, st.sampled_from(["", "1"]), max_size=2),
        response_nonce=st.sampled_from(["", "1", "99", "x", "9" * 5000]),
    ).map(lambda message: message.SerializeToString()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=4), st.sampled_from(["DeltaSecrets", "StreamSecrets"]))
def test_any_bytes_of_a_client_harm_no_other_client(messages: list[bytes], method: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(served(Path(folder) / "sds", messages, method))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60))
def test_arbitrary_bytes_of_the_ca_raise_an_error_of_the_client(body: bytes) -> None:
    async def request(path: Path) -> None:
        async def create(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
            return body

        server = grpc.aio.server()
        method = {"CreateCertificate": grpc.unary_unary_rpc_method_handler(create)}
        handler = grpc.method_handlers_generic_handler("istio.v1.auth.IstioCertificateService", method)
        server.add_generic_rpc_handlers((handler,))
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        ca = CaClient(client.unix_channel(path), tuple, validity_s=60)
        try:
            with pytest.raises((CaUnavailable, BadCertificate)):
                await ca.issue(SpiffeId.parse(WEB))
        finally:
            await ca.close()
            await server.stop(0)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(request(Path(folder) / "ca"))
