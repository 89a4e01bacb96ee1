"""Certificates of ztunnel's own pods that are workloads of the mesh.

Such a pod is not captured, so its enrolment does not acquire a certificate; ztunnel requests it over SDS.
"""

from typing import Protocol

from meshapi.analysis.enrolment import EnrolmentRules
from meshapi.identity import SpiffeId
from nodeagent.discovery.enrolment import PodInfo, is_own_proxy


class Certificates(Protocol):
    """Requests and renews the certificates of the identities in use."""

    def acquire(self, identity: SpiffeId) -> None:
        """Add one user of an identity's certificate."""
        ...

    def release(self, identity: SpiffeId) -> None:
        """Remove one user."""
        ...


class ProxyIdentities:
    """Holds the certificate of each such pod of the node while the pod exists."""

    def __init__(self, trust_domain: str, rules: EnrolmentRules, certificates: Certificates) -> None:
        self._trust_domain = trust_domain
        self._rules = rules
        self._certificates = certificates
        self._held: dict[str, SpiffeId] = {}

    def follow(self, uid: str, pod: PodInfo | None) -> None:
        """Acquire or release for the present state of a pod; ``None`` for a pod that is gone."""
        wanted = None
        if pod is not None and is_own_proxy(pod, self._rules):
            wanted = SpiffeId(self._trust_domain, pod.namespace, pod.service_account)
        held = self._held.get(uid)
        if wanted == held:
            return
        if wanted is not None:
            self._certificates.acquire(wanted)
            self._held[uid] = wanted
        if held is not None:
            self._certificates.release(held)
            if wanted is None:
                del self._held[uid]
