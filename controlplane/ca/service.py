"""``istio.v1.auth.IstioCertificateService``: authenticate, decide, sign.

A caller that is not authenticated or not authorized gets ``UNAUTHENTICATED`` and nothing else, as at
Istio. A pod that was scheduled milliseconds ago may be known to its node's agent before it is known here, so that one
refusal is held back until the pod appears, for at most a second.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc

from controlplane.ca import authority, node_authorizer
from controlplane.ca.errors import BadAuthority, BadRequest, NoPodOnNode, Refused
from controlplane.ca.signing import SigningSource
from controlplane.ca.tokens import TokenAuthenticator
from controlplane.metrics import Metrics
from meshapi.identity import SpiffeId
from meshapi.proto import ca_pb2, ca_pb2_grpc
from meshkit.kube.objects import TokenOwner
from meshkit.log import logger
from meshkit.xds import credentials
from meshkit.xds.errors import Unauthenticated

_log = logger("controlplane.ca")
_WAIT_FOR_POD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long certificates live, and who may request identities of others."""

    default_life: timedelta
    max_life: timedelta
    trusted: frozenset[tuple[str, str]]


class CertificateService(ca_pb2_grpc.IstioCertificateServiceServicer):
    """Signs certificate requests.

    Args:
        root: the signing authority.
        tokens: authenticates callers.
        pods: the pods of the cluster.
        limits: lifetimes and trusted callers.
        trust_domain: gives the trust domain of now.
        wait_changed: waits up to that many seconds for a change of pods; returns whether there was one.
        metrics: counts.
        clock: the time of day.
    """

    def __init__(
        self,
        signing: SigningSource,
        tokens: TokenAuthenticator,
        *,
        pods: node_authorizer.Pods,
        limits: Limits,
        trust_domain: Callable[[], str],
        wait_changed: Callable[[float], Awaitable[bool]],
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._signing = signing
        self._tokens = tokens
        self._pods = pods
        self._limits = limits
        self._trust_domain = trust_domain
        self._wait_changed = wait_changed
        self._metrics = metrics
        self._clock = clock

    async def CreateCertificate(
        self, request: ca_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.IstioCertificateResponse:
        """Sign one request."""
        self._metrics.csrs.inc()
        try:
            caller = await self._tokens.owner(credentials.metadata_of(context))
            identity = await self._authorize(caller, _impersonated(request))
            key = authority.requested_key(request.csr)
            life = self._life(request.validity_duration)
            chain = self._signing.current.issue(key, uri=str(identity), now=self._clock(), life=life)
        except (Unauthenticated, Refused) as error:
            self._metrics.authentication_failures.inc()
            await credentials.refuse(context, error)
        except BadRequest as error:
            self._metrics.csr_parse_errors.inc()
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BadAuthority as error:
            self._metrics.csr_sign_errors.inc()
            _log.error("cannot sign", reason=str(error))
            await context.abort(grpc.StatusCode.INTERNAL, "the certificate authority cannot sign now")
        self._metrics.issued.inc()
        _log.info("certificate issued", identity=str(identity), caller=f"{caller.namespace}/{caller.service_account}")
        return ca_pb2.IstioCertificateResponse(cert_chain=chain)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not been started."""
        ca_pb2_grpc.add_IstioCertificateServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    def _life(self, asked_s: int) -> timedelta:
        longest_s = int(self._limits.max_life.total_seconds())
        if asked_s <= 0:
            return min(self._limits.default_life, self._limits.max_life)
        return timedelta(seconds=min(asked_s, longest_s))

    async def _authorize(self, caller: TokenOwner, impersonated: str) -> SpiffeId:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _WAIT_FOR_POD_S
        while True:
            try:
                return node_authorizer.authorize(
                    caller,
                    impersonated,
                    trust_domain=self._trust_domain(),
                    trusted=self._limits.trusted,
                    pods=self._pods,
                )
            except NoPodOnNode:
                left_s = deadline - loop.time()
                if left_s <= 0 or not await self._wait_changed(left_s):
                    raise


def _impersonated(request: ca_pb2.IstioCertificateRequest) -> str:
    field = request.metadata.fields.get("ImpersonatedIdentity")
    return field.string_value if field is not None else ""
