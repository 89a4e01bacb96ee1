"""The connection to the authority, shared by all identities of a node."""

import asyncio
from pathlib import Path

import grpc
import pytest

from meshapi.identity import SpiffeId
from meshapi.proto import ca_pb2, ca_pb2_grpc
from meshkit.secrets.ca_client import CaClient, CaUnavailable
from meshkit.xds.client import unix_channel

FAILS = SpiffeId("cluster.local", "shop", "fails")
HANGS = SpiffeId("cluster.local", "shop", "hangs")


class OneFailsOneHangs(ca_pb2_grpc.IstioCertificateServiceServicer):
    def __init__(self) -> None:
        self.hanging = asyncio.Event()

    async def CreateCertificate(
        self, request: ca_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.IstioCertificateResponse:
        if request.metadata["ImpersonatedIdentity"] == str(HANGS):
            self.hanging.set()
            await asyncio.sleep(60)
        await self.hanging.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        raise AssertionError


async def test_a_failed_request_does_not_stop_another_identitys_request(tmp_path: Path) -> None:
    """The failed request closes the shared connection; gRPC cancels what is under way, and the keeper's task ended."""
    served = OneFailsOneHangs()
    server = grpc.aio.server()
    ca_pb2_grpc.add_IstioCertificateServiceServicer_to_server(served, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"unix:{tmp_path}/ca")
    await server.start()
    authority = CaClient(unix_channel(tmp_path / "ca"), tuple, validity_s=60)
    try:
        hanging = asyncio.create_task(authority.issue(HANGS))
        with pytest.raises(CaUnavailable, match="not now"):
            await authority.issue(FAILS)
        with pytest.raises(CaUnavailable, match="the connection failed"):
            await asyncio.wait_for(hanging, 5)
    finally:
        await authority.close()
        await server.stop(0)


async def test_cancelling_a_request_raises_cancelled_error(tmp_path: Path) -> None:
    authority = CaClient(unix_channel(tmp_path / "missing"), tuple, validity_s=60)
    request = asyncio.create_task(authority.issue(HANGS))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await authority.close()
