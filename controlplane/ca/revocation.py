"""The operator's revocation lists, from secret ``cacerts``: checked once, then published in every namespace.

Invalid content is logged once and changes nothing: what was published stays.
"""

from collections.abc import Callable, Sequence

from cryptography import x509

from meshapi import names
from meshkit import revocation
from meshkit.log import logger

_log = logger("controlplane.ca")


class Revocations:
    """Holds the lists in force.

    Attributes:
        pem: the lists; empty where there are none, ``None`` as long as nothing usable has been seen.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._seen: tuple[bytes, Sequence[x509.Certificate]] | None = None
        self._listeners: list[Callable[[], None]] = []
        self.pem: str | None = None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever the lists have changed."""
        self._listeners.append(listener)

    def take(self, pem: bytes, issuers: Sequence[x509.Certificate]) -> None:
        """Take the lists as the secret has them; ``issuers`` are the mesh's own authorities. Never raises."""
        if self._seen == (pem, issuers):
            return
        self._seen = (pem, issuers)
        try:
            lists = revocation.read(pem)
            revocation.check_issuers(lists, issuers)
        except revocation.BadRevocationLists as error:
            _log.error(
                "revocation lists cannot be used, those published stay",
                secret=self._secret, key=names.CRL_KEY, reason=str(error),
                fix="put in lists in PEM that the mesh's authorities have signed, or take the key out",
            )  # fmt: skip
            return
        # Made anew: whatever else an operator has put beside the lists, a key even, is not shown to every namespace.
        rendered = revocation.render(lists)
        if rendered == self.pem:
            return
        if lists or self.pem:
            _log.info("revocation lists in use", secret=self._secret, lists=len(lists))
        self.pem = rendered
        for listener in self._listeners:
            listener()
