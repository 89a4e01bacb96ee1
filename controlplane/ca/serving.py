"""The control plane's own certificate, signed by its own authority and renewed at half its life."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca import authority
from controlplane.ca.errors import CaError
from controlplane.ca.signing import SigningSource
from meshapi.identity import SpiffeId
from meshkit.log import logger
from meshkit.xds.serving import ServingCertificate

_log = logger("controlplane.ca")
_LIFE: Final = timedelta(hours=24)
_RETRY_S: Final = 10.0


class OwnServingCertificate:
    """Keeps the serving certificate fresh. ``renew`` first, then run ``follow`` as a task."""

    def __init__(
        self,
        signing: SigningSource,
        *,
        identity: Callable[[], SpiffeId],
        dns_names: Sequence[str],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._signing = signing
        self._identity = identity
        self._dns_names = dns_names
        self._clock = clock
        self._changed = asyncio.Event()
        self._current: ServingCertificate | None = None
        self._renew_at = clock()
        signing.on_change(self._changed.set)

    def current(self) -> ServingCertificate:
        """Return the certificate in use; may be called from any thread once ``renew`` has succeeded."""
        assert self._current is not None
        return self._current

    def renew(self) -> None:
        """Make a new key and certificate.

        Raises:
            CaError: the authority cannot sign.
        """
        self._changed.clear()
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock()
        signer = self._signing.current
        *chain, _ = signer.issue(
            key.public_key(), uri=str(self._identity()), dns_names=self._dns_names, now=now, life=_LIFE
        )
        self._current = ServingCertificate(chain_pem="".join(chain).encode(), key_pem=authority.key_pem(key))
        self._renew_at = now + (min(now + _LIFE, signer.expires) - now) / 2

    async def follow(self) -> NoReturn:
        """Renew at half life, and at once after a change of authority, until cancelled."""
        while True:
            wait_s = max(1.0, (self._renew_at - self._clock()).total_seconds())
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            try:
                self.renew()
                _log.info("own certificate renewed")
            except CaError as error:
                _log.warning("own certificate not renewed", reason=str(error))
                await asyncio.sleep(_RETRY_S)
