"""Manages the certificates of all identities in use: requests them, renews them at half of their lifetime, retries.

The CA returns the current roots with each certificate. When the mesh's roots change, all certificates are renewed at
once instead of at half of their lifetime, so a root is rotated in minutes and not in days (add the new root, change the
signing key, remove the old root).

A certificate that is still valid is served until a new one is issued, whatever happens to the CA.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from meshapi import names
from meshapi.identity import SpiffeId
from meshkit.log import logger
from meshkit.secrets.ca_client import CaUnavailable
from meshkit.secrets.request import BadCertificate, Issued
from meshkit.tasks import Backoff, happens
from meshkit.xds import sds
from meshkit.xds.source import Listener, Resource

_log = logger("secrets")

_PARALLEL: Final = 16
"""Requests in flight: a starting node requests certificates for all its identities."""
_RENEW_AT: Final = 0.5
_RENEW_JITTER: Final = 0.1
_MIN_WAIT_S: Final = 1.0
_SPREAD_S: Final = 5.0


class Issuer(Protocol):
    """Issues certificates."""

    async def issue(self, identity: SpiffeId) -> Issued:
        """Raises ``CaUnavailable`` or ``BadCertificate``."""
        ...


@dataclass(slots=True)
class _Managed:
    users: int = 0
    issued: Issued | None = None
    task: asyncio.Task[None] | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    renew: asyncio.Event = field(default_factory=asyncio.Event)


class SecretManager:
    """Certificates by identity; a ``ResourceSource`` for the SDS server. Not thread-safe: used on one event loop."""

    announces_missing = False
    """A certificate that is missing will be issued; clients do not get a removal for it."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._issuer = issuer
        self._now = now
        self._uniform = uniform
        self._managed: dict[SpiffeId, _Managed] = {}
        self._roots: bytes | None = None
        self._revoked = b""
        self._listeners: list[Listener] = []
        self._parallel = asyncio.Semaphore(_PARALLEL)
        self.failures = 0
        """Requests that failed since the start."""

    def acquire(self, identity: SpiffeId) -> None:
        """Add one user of an identity; the certificate is entry until each user has called ``release``."""
        entry = self._managed.setdefault(identity, _Managed())
        entry.users += 1
        if entry.task is None:
            entry.task = asyncio.create_task(self._maintain(identity, entry))

    def release(self, identity: SpiffeId) -> None:
        """Remove one user; with the last one, certificate and key are dropped."""
        entry = self._managed[identity]
        entry.users -= 1
        if entry.users:
            return
        del self._managed[identity]
        if entry.task is not None:
            entry.task.cancel()
        self._notify({str(identity)})

    async def ready(self, identity: SpiffeId, timeout_s: float) -> bool:
        """Wait until a certificate is issued; false when that takes more than ``timeout_s`` seconds."""
        entry = self._managed.get(identity)
        return entry is not None and await happens(entry.arrived, timeout_s)

    def renew_all(self) -> None:
        """Renew everything within ``_SPREAD_S`` seconds: the mesh's roots have changed."""
        for entry in self._managed.values():
            entry.renew.set()

    def revoke(self, lists_pem: bytes) -> None:
        """Serve these revocation lists, PEM, beside the roots; empty where there are none."""
        self._revoked = lists_pem
        if self._roots is not None:
            self._notify({names.ROOT_SECRET_NAME})

    def expirations(self) -> dict[str, datetime | None]:
        """Return the end of validity by identity; ``None`` where there is no certificate yet."""
        return {
            str(identity): None if entry.issued is None else entry.issued.not_after
            for identity, entry in self._managed.items()
        }

    async def close(self) -> None:
        """Stop renewing."""
        tasks = [entry.task for entry in self._managed.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _maintain(self, identity: SpiffeId, entry: _Managed) -> None:
        backoff = Backoff(first_s=0.2, cap_s=150.0)
        while True:
            try:
                async with self._parallel:
                    issued = await self._issuer.issue(identity)
            except (CaUnavailable, BadCertificate) as error:
                self.failures += 1
                delay_s = backoff.next()
                held = entry.issued.not_after.isoformat() if entry.issued else "none"
                _log.warning(
                    "certificate not issued, retrying",
                    identity=identity, reason=str(error), held_until=held, retry_in_s=round(delay_s, 1),
                )  # fmt: skip
                await asyncio.sleep(delay_s)
                continue
            backoff.reset()
            entry.issued = issued
            entry.arrived.set()
            changed = {str(identity)}
            if issued.roots_pem != self._roots:
                self._roots = issued.roots_pem
                changed.add(names.ROOT_SECRET_NAME)
            self._notify(changed)
            _log.info("certificate issued", identity=identity, not_after=issued.not_after.isoformat())
            await self._wait_until_due(entry, self._renewal_delay_s(issued))

    async def _wait_until_due(self, entry: _Managed, delay_s: float) -> None:
        """Wait until a certificate is due for renewal, or until ``renew_all``."""
        if await happens(entry.renew, delay_s):
            entry.renew.clear()
            await asyncio.sleep(self._uniform(0, _SPREAD_S))

    def _renewal_delay_s(self, issued: Issued) -> float:
        """Half of the lifetime, with a jitter of a tenth: a node's certificates must not all come due at once."""
        life_s = (issued.not_after - issued.not_before).total_seconds()
        left_s = (issued.not_after - self._now()).total_seconds()
        spread = self._uniform(-_RENEW_JITTER, _RENEW_JITTER)
        return max(_MIN_WAIT_S, left_s - life_s * (1 - _RENEW_AT - spread / 2))

    def _notify(self, changed: Set[str]) -> None:
        for listener in list(self._listeners):
            listener(names.SECRET_TYPE, frozenset(changed))

    # --- ResourceSource, for the SDS server -------------------------------------------------------------------------

    def serves(self, type_url: str) -> bool:
        """See ``ResourceSource.serves``."""
        return type_url == names.SECRET_TYPE

    def lookup(self, type_url: str, name: str) -> Resource | None:
        """See ``ResourceSource.lookup``."""
        if type_url != names.SECRET_TYPE:
            return None
        if name == names.ROOT_SECRET_NAME:
            bundle = None if self._roots is None else sds.TrustBundle(self._roots, self._revoked)
            return None if bundle is None else _resource(name, bundle.encode(name))
        issued = next((entry.issued for identity, entry in self._managed.items() if str(identity) == name), None)
        if issued is None:
            return None
        return _resource(name, sds.KeyPair(issued.chain_pem, issued.key_pem).encode(name))

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """See ``ResourceSource.resolve``."""
        found = self.lookup(type_url, name)
        return () if found is None else (found,)

    def all(self, type_url: str) -> Collection[Resource]:
        """See ``ResourceSource.all``."""
        everyone = [names.ROOT_SECRET_NAME, *map(str, self._managed)]
        return [found for name in everyone if (found := self.lookup(type_url, name)) is not None]

    def watch(self, listener: Listener) -> Callable[[], None]:
        """See ``ResourceSource.watch``."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``. Ignored: the pods of the node decide which certificates exist."""


def _resource(name: str, body: bytes) -> Resource:
    return Resource(name=name, version=hashlib.sha256(body).hexdigest(), body=body)
