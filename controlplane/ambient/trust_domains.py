"""Principals of policies, with the aliases of the mesh's trust domain.

Facts: Istio's ``pilot/pkg/security/trustdomain/bundle.go``. A principal of the mesh's trust domain, of one of its
aliases or of ``cluster.local`` (which means the mesh's own) holds in all of them. So policies that name the old
trust domain still match after a migration. Principals of other trust domains, and those that leave the trust domain
open, stay as they are.
"""

from collections.abc import Iterable, Sequence

from controlplane.inputs.mesh import MeshContext
from meshapi import names


def expand(principals: Sequence[str], mesh: MeshContext) -> list[str]:
    """Return the principals in all trust domains that they hold in, each once."""
    domains = (mesh.trust_domain, *mesh.trust_domain_aliases)
    return list(dict.fromkeys(one for principal in principals for one in _expanded(principal, domains)))


def _expanded(principal: str, domains: Sequence[str]) -> Iterable[str]:
    given, _, rest = principal.partition("/")
    if rest.count("/") != 3 or given == "*":
        return [principal]
    if given != names.DEFAULT_TRUST_DOMAIN and not any(_covers(given, domain) for domain in domains):
        return [principal]
    return [principal if _covers(given, domain) else f"{domain}/{rest}" for domain in domains]


def _covers(given: str, domain: str) -> bool:
    """Return whether the trust domain of a principal, which may begin with ``*``, is or includes ``domain``."""
    return given == domain or (given.startswith("*") and domain.endswith(given[1:]))
