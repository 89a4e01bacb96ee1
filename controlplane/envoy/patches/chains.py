"""Patches of filter chains, of the filters in them, and of HTTP filters.

Different from Istio: what is added goes in front of the last filter, behind which nothing is reached and whose place
Envoy gives to no other; ``filterClass`` says in front of which filters of the control plane.
"""

from collections.abc import Iterable, MutableSequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from controlplane.envoy import names
from controlplane.envoy.filter_chains import Opening
from controlplane.envoy.packing import packed
from controlplane.envoy.patches import editing, merging
from controlplane.envoy.patches.patch import Match, Patch, Patching
from meshapi.resources.envoy_filter import ApplyTo, FilterClass, Operation

_OF_TUNNELS: Final = frozenset({names.CONNECT_TERMINATE, names.CONNECT_ORIGINATE})
Chain: TypeAlias = listener_components_pb2.FilterChain
_AUTHENTICATION: Final = frozenset({names.JWT_FILTER})
_AUTHORIZATION: Final = frozenset(
    {"envoy.filters.http.rbac", "envoy.filters.http.ext_authz", "envoy.filters.network.rbac"}
)


def patched(openings: Iterable[Opening], patching: Patching) -> Iterable[Opening]:
    """Yield openings with the patches applied to their chains; one of which nothing is left goes.

    Connections to it have no chain then, and are refused.
    """
    if not patching.patches:
        yield from openings
        return
    for one in openings:
        kept = [chain for chain in one.chains if patch_chain(chain, names.MAIN_INTERNAL, one.port, patching)]
        left = {id(chain) for chain in kept}
        if left:
            yield replace(
                one,
                http=one.http if id(one.http) in left else None,
                tcp=one.tcp if id(one.tcp) in left else None,
                named=tuple(named for named in one.named if id(named.chain) in left),
            )


def patch_chain(chain: Chain, listener: str, port: int, patching: Patching) -> bool:
    """Apply the patches to a filter chain; return whether it is still there.

    Args:
        chain: is changed.
        listener: name of its listener.
        port: of the service that it is for, or of the listener; 0: of none.
        patching: the patches.
    """
    if not patching.patches:
        return True
    name = chain.name
    for patch in patching.of(ApplyTo.FILTER_CHAIN):
        if patch.operation is Operation.ADD or not _is_for(patch.match, chain, listener, port):
            continue
        patching.applied(patch)
        if patch.value is None or patch.operation is Operation.REMOVE:
            return False
        merging.merge_patch(chain, patch)
        if chain.name != name:
            chain.name = name
            patching.failed(patch, f"filter chain {name} is found by its name, which cannot be changed")
    _patch_filters(chain, listener, port, patching)
    return True


def _is_for(match: Match, chain: Chain, listener: str, port: int) -> bool:
    own = chain.filter_chain_match
    return (
        is_of_listener(match, listener)
        and match.port in {0, port}
        and match.chain in {"", chain.name}
        and (not match.server_name or match.server_name in own.server_names)
        and match.transport in {"", own.transport_protocol}
        and set(match.applications) <= set(own.application_protocols)
        and match.chain_port in {0, own.destination_port.value}
    )


def is_of_listener(match: Match, listener: str) -> bool:
    """Return whether a patch is for a listener: without a name, for the one that carries what users send.

    In Istio it is for the listeners of tunnels, too, where it would see each connection a second time.
    """
    return match.listener == listener or not (match.listener or listener in _OF_TUNNELS)


def _patch_filters(chain: Chain, listener: str, port: int, patching: Patching) -> None:
    """Patch network filters: first the list, then what is merged, as Istio does; then the HTTP filters in them."""
    fitting = [one for one in patching.of(ApplyTo.NETWORK_FILTER) if _is_for(one.match, chain, listener, port)]
    for patch in fitting:
        wanted = patch.match.filter
        chosen = (lambda one, name=wanted: one.name == name) if wanted else None
        if editing.edit(chain.filters, patch, chosen, _end(chain.filters, patch)):
            patching.applied(patch)
    for patch in fitting:
        if patch.merges:
            for one in chain.filters:
                if patch.match.filter in {"", one.name}:
                    editing.merge_filter(one, patch, patching, is_named=bool(patch.match.filter))
    http = [one for one in patching.of(ApplyTo.HTTP_FILTER) if _is_for(one.match, chain, listener, port)]
    for one in chain.filters if http else ():
        found = [patch for patch in http if patch.match.filter in {"", one.name}]
        manager = http_connection_manager_pb2.HttpConnectionManager()
        if one.typed_config.Is(manager.DESCRIPTOR) and found:
            one.typed_config.Unpack(manager)
            _patch_http_filters(manager.http_filters, found, patching)
            one.typed_config.CopyFrom(packed(manager))


def _patch_http_filters(filters: MutableSequence[Any], patches: Iterable[Patch], patching: Patching) -> None:
    for patch in patches:
        wanted = patch.match.sub_filter
        chosen = (lambda one, name=wanted: one.name == name) if wanted else None
        if editing.edit(filters, patch, chosen, _end(filters, patch)):
            patching.applied(patch)
    for patch in patches:
        if patch.merges:
            for one in filters:
                if patch.match.sub_filter in {"", one.name}:
                    editing.merge_filter(one, patch, patching, is_named=bool(patch.match.sub_filter))


def _end(filters: MutableSequence[Any], patch: Patch) -> int:
    """Return the position of what is added: in front of the last filter, or behind filters of a class."""
    last = max(0, len(filters) - 1)
    of_class = {
        FilterClass.AUTHN: _AUTHENTICATION,
        FilterClass.AUTHZ: _AUTHENTICATION | _AUTHORIZATION,
    }.get(patch.filter_class)
    if of_class is None:
        return last
    behind = [position + 1 for position, one in enumerate(filters) if one.name in of_class]
    if behind:
        return behind[-1]
    ahead = [position for position, one in enumerate(filters) if one.name in _AUTHORIZATION]
    return ahead[0] if ahead else last
