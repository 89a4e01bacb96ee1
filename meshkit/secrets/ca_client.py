"""Calls the certificate authority: ``IstioCertificateService.CreateCertificate`` with this process's own token.

The node agent authenticates as itself and requests the identities of its node's pods (``ImpersonatedIdentity``); the CA
verifies with Kubernetes that such a pod runs on the node. Any other process gets the identity that its token proves.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc
from google.protobuf import struct_pb2

from meshapi.identity import SpiffeId
from meshapi.proto import ca_pb2, ca_pb2_grpc
from meshkit.secrets.request import Issued, make_request, read_answer
from meshkit.xds.client import Connect
from meshkit.xds.credentials import Metadata

_TIMEOUT_S: Final = 10.0


class CaUnavailable(Exception):
    """The CA could not be reached or refused; retrying may help."""


class CaClient:
    """A client of the CA: connects on first use, reconnects after a failure.

    Args:
        connect: opens a channel.
        metadata: gives the metadata of one call: the token.
        validity_s: lifetime to request, in seconds.
        impersonates: whether identities of others are requested.
    """

    def __init__(
        self, connect: Connect, metadata: Callable[[], Metadata], *, validity_s: int, impersonates: bool = True
    ) -> None:
        self._connect = connect
        self._metadata = metadata
        self._validity_s = validity_s
        self._impersonates = impersonates
        self._channel: grpc.aio.Channel | None = None

    async def issue(self, identity: SpiffeId) -> Issued:
        """Generate a key and have it certified.

        Raises:
            CaUnavailable: see there.
            BadCertificate: the response is unusable.
        """
        request = await asyncio.to_thread(make_request, identity)
        metadata = struct_pb2.Struct()
        if self._impersonates:
            metadata.update({"ImpersonatedIdentity": str(identity)})
        message = ca_pb2.IstioCertificateRequest(
            csr=request.csr_pem, validity_duration=self._validity_s, metadata=metadata
        )
        channel = None
        try:
            channel = self._channel = self._channel or self._connect()
            stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            answer = await stub.CreateCertificate(message, metadata=self._metadata(), timeout=_TIMEOUT_S)
        except OSError as error:
            raise CaUnavailable(str(error)) from error
        except grpc.aio.AioRpcError as error:
            # The roots or the address may have changed, and both are read when connecting.
            if self._channel is channel:
                await self.close()
            raise CaUnavailable(f"{error.code().name}: {error.details()}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Another call failed and closed the shared channel; gRPC reports that as a cancellation too.
            raise CaUnavailable("the connection failed") from None
        if answer is None:  # gRPC returns this where its decoder fails
            raise CaUnavailable("the CA's response cannot be decoded")
        return read_answer(identity, request, list(answer.cert_chain))

    async def close(self) -> None:
        """Close the connection, if any."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
