"""Keeps the key sets that RequestAuthentications name: fetched, fetched again, and the last good ones kept."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from controlplane.followers import Followers
from controlplane.inputs.sources import Inputs, KeySet
from controlplane.key_sets.fetching import Fetcher, FetchFailed
from meshapi.resources.request_authentication import JWTRule, RequestAuthentication
from meshkit.log import logger
from meshkit.tasks import Backoff

_log = logger("controlplane.key_sets")
_TIMEOUT_S: Final = 5.0
_REFRESH_S: Final = 20 * 60.0
"""Istio's ``PILOT_JWT_PUB_KEY_REFRESH_INTERVAL``."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key set that is wanted: where it is, or (no ``uri``) whose it is."""

    uri: str
    issuer: str
    timeout_s: float


class KeySets:
    """Fetches what is wanted. Construct, then ``run`` as a task.

    Args:
        inputs: where RequestAuthentications are, and where key sets are put.
        touch: is called when a key set has changed.
        fetcher: fetches.
    """

    def __init__(self, inputs: Inputs, touch: Callable[[str], None], fetcher: Fetcher) -> None:
        self._inputs = inputs
        self._touch = touch
        self._fetcher = fetcher
        self._objects = inputs.of(RequestAuthentication)
        self._followers = Followers(self._wanted, self._follow, lambda gone: self._put(gone, None))
        self._objects.add_handler(self._followers.changed)

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        async with self._fetcher:
            await self._followers.run()

    def _wanted(self) -> set[Wanted]:
        return {one for item in self._objects for rule in item.spec.jwt_rules if (one := wanted_by(rule))}

    async def _follow(self, wanted: Wanted) -> NoReturn:
        backoff = Backoff(first_s=1.0, cap_s=60.0)
        while True:
            held = self._inputs.key_sets.find((wanted.uri, wanted.issuer))
            try:
                keys = await self._fetcher.keys(wanted.uri, wanted.issuer, wanted.timeout_s)
            except FetchFailed as error:
                _log.warning("keys of an issuer cannot be fetched, will retry", issuer=wanted.issuer, reason=str(error))
                self._put(wanted, KeySet(None if held is None else held.keys, str(error)))
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                self._put(wanted, KeySet(keys))
                await asyncio.sleep(_REFRESH_S * random.uniform(0.9, 1.1))  # noqa: S311  # spreads load, guards nothing

    def _put(self, wanted: Wanted, keys: KeySet | None) -> None:
        if self._inputs.key_sets.find((wanted.uri, wanted.issuer)) != keys:
            self._inputs.key_sets.set((wanted.uri, wanted.issuer), keys)
            self._touch("jwks")


def wanted_by(rule: JWTRule) -> Wanted | None:
    """Return what a rule wants; ``None`` for one that has its keys."""
    if rule.jwks:
        return None
    timeout_s = rule.timeout.total_seconds() if rule.timeout is not None else _TIMEOUT_S
    return Wanted(rule.jwks_uri, rule.issuer, timeout_s)
