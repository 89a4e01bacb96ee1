"""State-of-the-world bookkeeping for one type on one stream, without any I/O.

Rules: every response carries all subscribed resources that exist; a request with the nonce of the last response and
no error is an ACK, with ``error_detail`` a NACK; a request with an older nonce is stale and ignored, except that its
names are not taken either (xDS protocol, "Resource updates"). Names only, no wildcard: secrets have none.
"""

import hashlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from meshkit.xds.source import Resource, ResourceSource
from meshkit.xds.subscription import Record


@dataclass(slots=True)
class WholeSubscription:
    """State of one type on one stream."""

    type_url: str
    source: ResourceSource
    names: set[str] = field(default_factory=set)
    record: Record = field(default_factory=Record)
    _last: dict[str, str] = field(default_factory=dict)

    def request(self, names: Iterable[str], nonce: str, error: str | None) -> Sequence[Resource] | None:
        """Take a request in; return what to send, ``None`` for nothing."""
        if nonce and nonce != str(self.record.sent):
            return None
        if nonce:
            self._answered(error)
        wanted = set(names)
        added = wanted - self.names
        self.names = wanted
        if not added:
            return None
        self.source.wanted(self.type_url, added)
        return self._everything()

    def changed(self, names: Set[str]) -> Sequence[Resource] | None:
        """Return what to send after ``names`` have changed in the source, ``None`` for nothing."""
        return None if self.names.isdisjoint(names) else self._everything()

    def sent(self, resources: Sequence[Resource]) -> tuple[str, str]:
        """Count one response; return its version and nonce."""
        self.record.sent += 1
        digest = hashlib.blake2b(digest_size=8)
        for resource in resources:
            digest.update(f"{resource.name}={resource.version};".encode())
        return digest.hexdigest(), str(self.record.sent)

    def _answered(self, error: str | None) -> None:
        if error is None:
            self.record.acked = self.record.sent
            return
        self.record.nacked = self.record.sent
        self.record.error = error
        self.record.rejects += 1

    def _everything(self) -> Sequence[Resource] | None:
        found = [self.source.lookup(self.type_url, name) for name in sorted(self.names)]
        existing = [resource for resource in found if resource is not None]
        versions = {resource.name: resource.version for resource in existing}
        if not existing or versions == self._last:
            return None
        self._last = versions
        return existing
