"""Certificates from the node's SDS socket to the engine.

The engine says which identities are served; each is a secret's name. The trust bundle is one secret for all; a root
that is gone ends tunnels. Revocation lists come with the roots. The engine keeps what it was given, so no private key
stays here.
"""

from collections.abc import Sequence

from meshapi import names
from meshengine import ConfigRejected, Engine
from meshkit.log import logger
from meshkit.tasks import Backoff
from meshkit.xds import sds
from meshkit.xds.client import Connect, DeltaClient, NodeInfo, Rejection, Service
from meshkit.xds.errors import BadSecret

_log = logger("certificates")


class Certificates:
    """Follows the certificate source for the identities that the engine wants."""

    def __init__(self, engine: Engine, connect: Connect, node: NodeInfo) -> None:
        self._engine = engine
        self._wanted: set[str] = set()
        self._taken: set[str] = set()
        self._roots: bytes | None = None
        self._crl = b""
        self._client = DeltaClient(
            connect=connect,
            node=node,
            subscriptions={names.SECRET_TYPE: [names.ROOT_SECRET_NAME]},
            receiver=self,
            service=Service.SECRETS,
            backoff=Backoff(first_s=0.01, cap_s=0.5),  # on the same node: retrying costs nothing
        )

    async def run(self) -> None:
        """Follow the source until cancelled."""
        await self._client.run()

    def want(self, identity: str) -> None:
        """Begin to follow an identity's certificate."""
        self._wanted.add(identity)
        self._client.subscribe(names.SECRET_TYPE, [identity])

    def release(self, identity: str) -> None:
        """Forget an identity: no workload here has it any more."""
        self._client.unsubscribe(names.SECRET_TYPE, [identity])
        self._wanted.discard(identity)
        self._taken.discard(identity)

    async def on_update(
        self, type_url: str, upserts: list[tuple[str, str, bytes]], removes: list[str]
    ) -> Sequence[Rejection]:
        """Take secrets; see ``meshkit.xds.client.Receiver``."""
        if type_url != names.SECRET_TYPE:
            return [Rejection(name, f"type {type_url} was not subscribed to") for name, _, _ in upserts]
        rejections: list[Rejection] = []
        offered: dict[str, sds.KeyPair] = {}
        for name, _, body in upserts:
            try:
                secret = sds.decode(body)
            except BadSecret as error:
                rejections.append(Rejection(name, str(error)))
                continue
            if isinstance(secret, sds.TrustBundle) and name != names.ROOT_SECRET_NAME:
                rejections.append(Rejection(name, "roots were not subscribed to by this name"))
            elif isinstance(secret, sds.TrustBundle):
                rejections += self._revoke(name, secret.crl_pem)
                rejections += self._trust(name, secret.roots_pem)
            elif name in self._wanted:
                offered[name] = secret
        for identity, pair in offered.items():
            rejections += self._hand_over(identity, pair)
        for name in removes:
            self._withdraw(name)
        return rejections

    def _withdraw(self, name: str) -> None:
        """Say that an identity's secret is gone. The engine uses the certificate while it is valid, with new roots too.
        Roots stay in force: a source that has just started may not have its own yet."""
        if name in self._taken:
            self._engine.certificate_unavailable(name, "the certificate source has withdrawn it")

    def _trust(self, name: str, roots_pem: bytes) -> list[Rejection]:
        """Put roots in force. Bad ones are refused: certificates are renewed under those held."""
        if roots_pem == self._roots:
            return []
        try:
            self._engine.set_trust_bundle(roots_pem)
        except ConfigRejected as error:
            return [Rejection(name, str(error))]
        self._roots = roots_pem
        _log.info("trust bundle taken over", bytes=len(roots_pem))
        return []

    def _revoke(self, name: str, crl_pem: bytes) -> list[Rejection]:
        """Put revocation lists in force. Bad ones are refused for themselves: the roots that came with them are not."""
        if crl_pem == self._crl:
            return []
        try:
            self._engine.set_revocation_lists(crl_pem)
        except ConfigRejected as error:
            return [Rejection(name, str(error))]
        self._crl = crl_pem
        _log.info("revocation lists taken over", bytes=len(crl_pem))
        return []

    def _hand_over(self, identity: str, pair: sds.KeyPair) -> list[Rejection]:
        """Give the engine a pair. A bad one is refused, and the one that is held stays in force."""
        try:
            self._engine.set_certificate(identity, pair.chain_pem, pair.key_pem)
        except ConfigRejected as error:
            return [Rejection(identity, str(error))]
        self._taken.add(identity)
        _log.info("certificate taken over", identity=identity)
        return []
