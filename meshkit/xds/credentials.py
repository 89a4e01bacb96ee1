"""Proof of identity on gRPC calls: bearer tokens from files on the client, a gate on the server."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NoReturn

import grpc

from meshkit.log import logger
from meshkit.xds.errors import Unauthenticated

Authenticate = Callable[[Mapping[str, str]], Awaitable[str]]
"""From a call's metadata to the caller's name for logs and pages; raises ``Unauthenticated``."""
Metadata = tuple[tuple[str, str], ...]

_log = logger("xds.auth")
_OPAQUE = "authentication failure"
"""The only text that an unauthenticated caller gets; the reason is in the log."""


def token_metadata(token_file: Path | None, cluster_id: str) -> Metadata:
    """Return the metadata of one call; the token file is read now, since the kubelet replaces it.

    Raises:
        OSError: the file cannot be read.
    """
    pairs: list[tuple[str, str]] = [("clusterid", cluster_id)]
    if token_file is not None:
        pairs.insert(0, ("authorization", f"Bearer {token_file.read_text().strip()}"))
    return tuple(pairs)


def bearer_token(metadata: Mapping[str, str]) -> str:
    """Return the token of a call.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("no bearer token in the call's metadata")
    return token.strip()


def metadata_of(context: grpc.aio.ServicerContext) -> dict[str, str]:
    """Return a call's metadata as text; binary entries are left out."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


async def refuse(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call as UNAUTHENTICATED; the reason goes to the log only."""
    _log.warning("call refused", peer=context.peer(), reason=str(error))
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, _OPAQUE)
    raise AssertionError("abort always raises")
