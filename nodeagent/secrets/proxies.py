"""Certificates of ztunnel's own pods that are workloads of the mesh.

Such a pod is not captured, so the enrolment of pods does not ask for its certificate; ztunnel asks for it by SDS.
"""

from typing import Protocol

from meshapi.identity import SpiffeId
from nodeagent.discovery.enrolment import EnrolmentRules, PodFacts, is_own_proxy


class Certificates(Protocol):
    """Keeps certificates of the identities that are wanted; counted."""

    def want(self, identity: SpiffeId) -> None:
        """Begin to keep an identity's certificate."""
        ...

    def release(self, identity: SpiffeId) -> None:
        """Undo one ``want``."""
        ...


class ProxyIdentities:
    """Keeps the certificate of each such pod of the node from its first event to its end."""

    def __init__(self, trust_domain: str, rules: EnrolmentRules, certificates: Certificates) -> None:
        self._trust_domain = trust_domain
        self._rules = rules
        self._certificates = certificates
        self._kept: dict[str, SpiffeId] = {}

    def follow(self, uid: str, pod: PodFacts | None) -> None:
        """Take over a pod as it is now; ``None`` where it is gone."""
        wanted = None
        if pod is not None and is_own_proxy(pod, self._rules):
            wanted = SpiffeId(self._trust_domain, pod.namespace, pod.service_account)
        kept = self._kept.get(uid)
        if wanted == kept:
            return
        if wanted is not None:
            self._certificates.want(wanted)
            self._kept[uid] = wanted
        if kept is not None:
            self._certificates.release(kept)
            if wanted is None:
                del self._kept[uid]
