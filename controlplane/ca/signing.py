"""Where the signing authority comes from: a secret of the operator, or a root of our own that is kept in a secret.

Secret ``cacerts`` wins (ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem; ca-crl.pem with the revocation lists
of the authorities, where there are any). Without it, a root is made once and
kept in ``istio-ca-secret``; of several replicas that start together one creates it and the others use that one.
Both are looked at again every minute; what cannot be used is reported and the authority in use stays.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from controlplane.ca import authority
from controlplane.ca.errors import BadAuthority, CaError
from controlplane.ca.revocation import Revocations
from controlplane.metrics import Metrics
from meshapi import names
from meshkit.kube import Client, Json, KubeError, kinds, objects
from meshkit.log import logger

_log = logger("controlplane.ca")
_CERTIFICATE: Final = "ca-cert.pem"
_KEY: Final = "ca-key.pem"
_ROOTS: Final = names.ROOT_CERT_KEY
_CHAIN: Final = "cert-chain.pem"
_LOOK_AGAIN_S: Final = 60.0


class SigningSource:
    """Holds the authority in use. ``load`` first, then run ``follow`` as a task.

    Attributes:
        revocations: what the authorities have revoked.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        life: timedelta,
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._life = life
        self._metrics = metrics
        self._clock = clock
        self._loaded: authority.Authority | None = None
        self._current: authority.Authority | None = None
        """The one that was loaded, with the additional roots."""
        self._more_roots: tuple[str, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        self.revocations = Revocations(f"{namespace}/{names.CACERTS_SECRET}")

    @property
    def current(self) -> authority.Authority:
        """The authority in use.

        Raises:
            BadAuthority: none has been loaded yet.
        """
        if self._current is None:
            raise BadAuthority("no signing certificate has been loaded yet")
        return self._current

    @property
    def is_loaded(self) -> bool:
        """Whether there is an authority."""
        return self._current is not None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever the authority has changed."""
        self._listeners.append(listener)

    def trust(self, roots_pem: tuple[str, ...]) -> None:
        """Distribute these roots, PEM, beside the authority's own; they replace those of the last call."""
        if roots_pem != self._more_roots:
            self._more_roots = roots_pem
            _log.info("additional roots of the mesh configuration", count=len(roots_pem))
            if self._loaded is not None:
                self._use(self._loaded)

    async def load(self, trust_domain: str) -> None:
        """Read or make the authority; ``trust_domain`` names a self-made root.

        Raises:
            BadAuthority: a secret holds something that cannot be used.
            KubeError: the API server cannot be reached.
        """
        secret = await self._client.find(kinds.SECRET, names.CACERTS_SECRET, self._namespace)
        name = names.CACERTS_SECRET
        if secret is None:
            secret = await self._own_secret(trust_domain)
            name = names.CA_SECRET
        data = objects.secret_data(secret)
        try:
            loaded = authority.Authority.load(
                certificate_pem=data.get(_CERTIFICATE, b""),
                key_pem=data.get(_KEY, b""),
                chain_pem=data.get(_CHAIN, b""),
                roots_pem=data.get(_ROOTS, b""),
            )
        except CaError as error:
            raise BadAuthority(f"Secret {self._namespace}/{name}: {error}") from error
        self._loaded = loaded
        if self._use(loaded):
            _log.info(
                "signing certificate in use", secret=f"{self._namespace}/{name}", expires=loaded.expires.isoformat()
            )
        # Revocation lists come with the secret ``cacerts`` only, not with a self-signed root.
        lists = data.get(names.CRL_KEY, b"") if name == names.CACERTS_SECRET else b""
        self.revocations.take(lists, loaded.authorities)

    async def follow(self, trust_domain: Callable[[], str]) -> NoReturn:
        """Look at the secrets again and again until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            self._measure()
            try:
                await self.load(trust_domain())
            except (CaError, KubeError) as error:
                _log.warning("signing certificate not renewed, the one in use stays", reason=str(error))

    async def _own_secret(self, trust_domain: str) -> Json:
        existing = await self._client.find(kinds.SECRET, names.CA_SECRET, self._namespace)
        if existing is not None:
            return existing
        certificate, key = authority.self_signed(trust_domain=trust_domain, now=self._clock(), life=self._life)
        _log.info("made a root certificate", secret=f"{self._namespace}/{names.CA_SECRET}")
        body = objects.secret_body(names.CA_SECRET, {_CERTIFICATE: certificate, _KEY: key}, "istio.io/ca-root")
        return await objects.create_if_missing(self._client, kinds.SECRET, body, self._namespace)

    def _use(self, loaded: authority.Authority) -> bool:
        """Use an authority, with the additional roots; return whether anything changed."""
        new = loaded.with_roots(self._more_roots)
        old = self._current
        if (
            old is not None
            and old.certificate == new.certificate
            and old.roots_pem == new.roots_pem
            and old.intermediates_pem == new.intermediates_pem
        ):
            return False
        self._current = new
        self._measure()
        for listener in self._listeners:
            listener()
        return True

    def _measure(self) -> None:
        if self._loaded is None:
            return
        now = self._clock().timestamp()
        root, chain = self._loaded.roots_expire.timestamp(), self._loaded.expires.timestamp()
        self._metrics.root_expiry.set(root)
        self._metrics.root_expiry_seconds.set(root - now)
        self._metrics.chain_expiry.set(chain)
        self._metrics.chain_expiry_seconds.set(chain - now)
