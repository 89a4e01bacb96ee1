"""Keeps a certificate of every identity that is wanted: asks, renews at half of its life, tries again on failure.

A certificate comes with the roots of its time. When the mesh is told of other roots, all are renewed at once instead of
at half of their lives: a root can be exchanged in minutes, not in days (the new root beside the old one, then the
signing key, then the old root goes).

A certificate that is still valid is served until a better one is there, whatever happens to the authority.
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
from meshkit.tasks import Backoff
from meshkit.xds import sds
from meshkit.xds.source import Listener, Resource
from nodeagent.secrets.authority import AuthorityUnavailable
from nodeagent.secrets.request import BadCertificate, Issued

_log = logger("secrets")

_PARALLEL: Final = 16
"""Requests under way at once: a node that starts asks for all its identities."""
_RENEW_AT: Final = 0.5
_RENEW_JITTER: Final = 0.1
_MIN_WAIT_S: Final = 1.0
_SPREAD_S: Final = 5.0


class Issuer(Protocol):
    """Issues certificates."""

    async def issue(self, identity: SpiffeId) -> Issued:
        """Raises ``AuthorityUnavailable`` or ``BadCertificate``."""
        ...


@dataclass(slots=True)
class _Kept:
    users: int = 0
    issued: Issued | None = None
    task: asyncio.Task[None] | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    renew: asyncio.Event = field(default_factory=asyncio.Event)


class Keeper:
    """Certificates by identity; a ``ResourceSource`` for the SDS server. Used on one loop only."""

    announces_missing = False
    """A certificate that is not there yet will be; nobody is told that it does not exist."""

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
        self._kept: dict[SpiffeId, _Kept] = {}
        self._roots: bytes | None = None
        self._revoked = b""
        self._listeners: list[Listener] = []
        self._parallel = asyncio.Semaphore(_PARALLEL)
        self.failures = 0
        """Requests that failed since the start."""

    def want(self, identity: SpiffeId) -> None:
        """Keep an identity's certificate until as many ``release`` calls."""
        kept = self._kept.setdefault(identity, _Kept())
        kept.users += 1
        if kept.task is None:
            kept.task = asyncio.create_task(self._keep(identity, kept))

    def release(self, identity: SpiffeId) -> None:
        """Undo one ``want``; with the last one the key is forgotten."""
        kept = self._kept[identity]
        kept.users -= 1
        if kept.users:
            return
        del self._kept[identity]
        if kept.task is not None:
            kept.task.cancel()
        self._tell({str(identity)})

    async def ready(self, identity: SpiffeId, patience_s: float) -> bool:
        """Wait until there is a certificate; false when it does not come in ``patience_s`` seconds."""
        kept = self._kept.get(identity)
        if kept is None:
            return False
        try:
            await asyncio.wait_for(kept.arrived.wait(), patience_s)
        except TimeoutError:
            return False
        return True

    def renew_all(self) -> None:
        """Ask for everything anew within ``_SPREAD_S`` seconds: the mesh has other roots than those held."""
        for kept in self._kept.values():
            kept.renew.set()

    def revoke(self, lists_pem: bytes) -> None:
        """Serve these revocation lists, PEM, beside the roots; empty where there are none."""
        self._revoked = lists_pem
        if self._roots is not None:
            self._tell({names.ROOT_SECRET_NAME})

    def expirations(self) -> dict[str, datetime | None]:
        """Return the end of validity by identity; ``None`` where there is no certificate yet."""
        return {
            str(identity): None if kept.issued is None else kept.issued.not_after
            for identity, kept in self._kept.items()
        }

    async def close(self) -> None:
        """Stop renewing."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, identity: SpiffeId, kept: _Kept) -> None:
        backoff = Backoff(first_s=0.2, cap_s=150.0)
        while True:
            try:
                async with self._parallel:
                    issued = await self._issuer.issue(identity)
            except (AuthorityUnavailable, BadCertificate) as error:
                self.failures += 1
                delay_s = backoff.next()
                held = kept.issued.not_after.isoformat() if kept.issued else "none"
                _log.warning(
                    "certificate not issued, will try again",
                    identity=identity, reason=str(error), held_until=held, retry_in_s=round(delay_s, 1),
                )  # fmt: skip
                await asyncio.sleep(delay_s)
                continue
            backoff.reset()
            kept.issued = issued
            kept.arrived.set()
            changed = {str(identity)}
            if issued.roots_pem != self._roots:
                self._roots = issued.roots_pem
                changed.add(names.ROOT_SECRET_NAME)
            self._tell(changed)
            _log.info("certificate issued", identity=identity, not_after=issued.not_after.isoformat())
            await self._rest(kept, self._renewal_delay_s(issued))

    async def _rest(self, kept: _Kept, delay_s: float) -> None:
        """Wait until a certificate is due, or until all are."""
        try:
            await asyncio.wait_for(kept.renew.wait(), delay_s)
        except TimeoutError:
            return
        kept.renew.clear()
        await asyncio.sleep(self._uniform(0, _SPREAD_S))

    def _renewal_delay_s(self, issued: Issued) -> float:
        """Half of the life, give or take a tenth: a node's certificates must not all come due at once."""
        life_s = (issued.not_after - issued.not_before).total_seconds()
        left_s = (issued.not_after - self._now()).total_seconds()
        spread = self._uniform(-_RENEW_JITTER, _RENEW_JITTER)
        return max(_MIN_WAIT_S, left_s - life_s * (1 - _RENEW_AT - spread / 2))

    def _tell(self, changed: Set[str]) -> None:
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
        issued = next((kept.issued for identity, kept in self._kept.items() if str(identity) == name), None)
        if issued is None:
            return None
        return _resource(name, sds.KeyPair(issued.chain_pem, issued.key_pem).encode(name))

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        """See ``ResourceSource.resolve``."""
        found = self.lookup(type_url, name)
        return () if found is None else (found,)

    def all(self, type_url: str) -> Collection[Resource]:
        """See ``ResourceSource.all``."""
        everyone = [names.ROOT_SECRET_NAME, *map(str, self._kept)]
        return [found for name in everyone if (found := self.lookup(type_url, name)) is not None]

    def watch(self, listener: Listener) -> Callable[[], None]:
        """See ``ResourceSource.watch``."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def wanted(self, type_url: str, names: Set[str]) -> None:
        """See ``ResourceSource.wanted``: who is served is decided by the pods of the node, not by who asks."""


def _resource(name: str, body: bytes) -> Resource:
    return Resource(name=name, version=hashlib.sha256(body).hexdigest(), body=body)
