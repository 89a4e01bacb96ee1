"""An engine whose certificates can be read back: what the product's host no longer keeps."""

from meshengine import Engine


class TakingEngine:
    """Passes calls to an engine, and notes what it has taken."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.pairs: dict[str, tuple[bytes, bytes]] = {}
        self.roots: bytes | None = None

    def set_trust_bundle(self, roots: bytes) -> None:
        self._engine.set_trust_bundle(roots)
        self.roots = roots

    def set_revocation_lists(self, lists: bytes) -> None:
        self._engine.set_revocation_lists(lists)

    def set_certificate(self, identity: str, chain: bytes, private_key: bytes) -> None:
        self._engine.set_certificate(identity, chain, private_key)
        self.pairs[identity] = chain, private_key

    def certificate_unavailable(self, identity: str, reason: str) -> None:
        self._engine.certificate_unavailable(identity, reason)
