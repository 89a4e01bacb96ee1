"""Calls the certificate authority: ``IstioCertificateService.CreateCertificate`` with this agent's own token.

The agent asks in its own name for the identities of its node's pods (``ImpersonatedIdentity``); the authority grants
what it can verify with Kubernetes.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc
from google.protobuf import struct_pb2

from meshapi.identity import SpiffeId
from meshapi.proto import ca_pb2, ca_pb2_grpc
from meshkit.xds.client import Connect
from meshkit.xds.credentials import Metadata
from nodeagent.secrets.request import Issued, make_request, read_answer

_PATIENCE_S: Final = 10.0


class AuthorityUnavailable(Exception):
    """The authority could not be asked or refused; trying again may help."""


class Authority:
    """A connection to the authority that is made when needed and made anew when it fails."""

    def __init__(self, connect: Connect, metadata: Callable[[], Metadata], *, validity_s: int) -> None:
        self._connect = connect
        self._metadata = metadata
        self._validity_s = validity_s
        self._channel: grpc.aio.Channel | None = None

    async def issue(self, identity: SpiffeId) -> Issued:
        """Make a key and have it certified.

        Raises:
            AuthorityUnavailable: see there.
            BadCertificate: the answer is of no use.
        """
        request = await asyncio.to_thread(make_request, identity)
        metadata = struct_pb2.Struct()
        metadata.update({"ImpersonatedIdentity": str(identity)})
        message = ca_pb2.IstioCertificateRequest(
            csr=request.csr_pem, validity_duration=self._validity_s, metadata=metadata
        )
        channel = None
        try:
            channel = self._channel = self._channel or self._connect()
            stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            answer = await stub.CreateCertificate(message, metadata=self._metadata(), timeout=_PATIENCE_S)
        except OSError as error:
            raise AuthorityUnavailable(str(error)) from error
        except grpc.aio.AioRpcError as error:
            # The roots or the address may have changed, and both are read when connecting.
            if self._channel is channel:
                await self.close()
            raise AuthorityUnavailable(f"{error.code().name}: {error.details()}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Another call has failed and closed the connection under this one, which gRPC calls cancelled too.
            raise AuthorityUnavailable("the connection failed") from None
        if answer is None:  # what the library gives for bytes that are no message
            raise AuthorityUnavailable("the authority has sent what is no answer")
        return read_answer(identity, request, list(answer.cert_chain))

    async def close(self) -> None:
        """Close the connection, if there is one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
