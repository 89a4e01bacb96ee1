"""The one table of the order of types: what is needed comes before what needs it, and goes after it.

Of Envoy's types: clusters, endpoints, listeners, what their filters are configured with, routes ("Eventual consistency
considerations" of the xDS protocol); secrets before all of them. Of the tunnel's: a workload that names a new policy
must not arrive before the policy, since an unknown policy denies everything.
"""

from collections.abc import Iterable
from typing import Final

from meshapi import names

ORDER: Final = (
    names.MESH_CONFIG_TYPE,
    names.AUTHORIZATION_TYPE,
    names.ADDRESS_TYPE,
    names.SECRET_TYPE,
    names.CLUSTER_TYPE,
    names.ENDPOINT_TYPE,
    names.LISTENER_TYPE,
    names.EXTENSION_CONFIG_TYPE,
    names.ROUTE_TYPE,
)
BY_NAME: Final = frozenset({names.SECRET_TYPE, names.ENDPOINT_TYPE, names.EXTENSION_CONFIG_TYPE, names.ROUTE_TYPE})
"""Types whose resources are subscribed to by name only: a state-of-the-world request without names means none."""
_POSITIONS: Final = {type_url: position for position, type_url in enumerate(ORDER)}


def ordered(type_urls: Iterable[str]) -> list[str]:
    """Return types in the order in which their changes are sent; removals are sent in reverse."""
    return sorted(type_urls, key=lambda type_url: _POSITIONS.get(type_url, len(ORDER)))
