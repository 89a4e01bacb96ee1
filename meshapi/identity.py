"""Workload identities in SPIFFE form, as Istio writes them."""

import re
from dataclasses import dataclass
from typing import Self

from meshapi.errors import InvalidIdentity

_SCHEME = "spiffe://"
_NAME = re.compile(r"[-.0-9A-Z_a-z]+")


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """Identity of a workload: trust domain, namespace and service account.

    Source: SPIFFE-ID.md section 2, which allows letters, digits, ``-``, ``.`` and ``_`` only; the path
    ``/ns/<namespace>/sa/<service account>`` is Istio's.
    """

    trust_domain: str
    namespace: str
    service_account: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read ``spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>``; nothing else is an identity.

        Raises:
            InvalidIdentity: any other form.
        """
        parts = uri.removeprefix(_SCHEME).split("/")
        well_formed = uri.startswith(_SCHEME) and len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa"
        if not well_formed or not all(map(_NAME.fullmatch, parts)):
            raise InvalidIdentity(
                f"{uri!r} is not a workload identity; write {_SCHEME}<trust-domain>/ns/<namespace>/sa/<service-account>"
            )
        return cls(trust_domain=parts[0], namespace=parts[2], service_account=parts[4])

    @property
    def principal(self) -> str:
        """The form that policies use: the identity without ``spiffe://``."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return _SCHEME + self.principal
