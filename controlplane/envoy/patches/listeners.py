"""Patches of a waypoint's listeners. The filter chains of services are patched where they are made."""

from typing import Any

from envoy.config.listener.v3 import listener_pb2

from controlplane.envoy import names
from controlplane.envoy.patches import chains, editing, merging
from controlplane.envoy.patches.patch import Match, Patch, Patching
from meshapi.resources.envoy_filter import ApplyTo, Operation


def patched(listener: listener_pb2.Listener, patching: Patching) -> listener_pb2.Listener | None:
    """Return a listener with the patches applied; ``None``: it was removed.

    Args:
        listener: is changed.
        patching: the patches.
    """
    if not patching.patches:
        return listener
    name = listener.name
    for patch in patching.of(ApplyTo.LISTENER):
        if patch.operation is Operation.ADD or not _is_for(patch.match, listener):
            continue
        patching.applied(patch)
        if patch.operation is Operation.REMOVE:
            return None
        merging.merge_patch(listener, patch)
        if listener.name != name:
            listener.name = name
            patching.failed(patch, f"listener {name} is found by its name, which cannot be changed")
    for patch in patching.of(ApplyTo.LISTENER_FILTER):
        if _is_for(patch.match, listener):
            _patch_filter(listener, patch, patching)
    _patch_chains(listener, patching)
    return listener


def _is_for(match: Match, listener: listener_pb2.Listener) -> bool:
    return chains.is_of_listener(match, listener.name) and match.port in {0, _port(listener)}


def _port(listener: listener_pb2.Listener) -> int:
    return int(listener.address.socket_address.port_value)


def _patch_filter(listener: listener_pb2.Listener, patch: Patch, patching: Patching) -> None:
    wanted = patch.match.listener_filter

    def is_wanted(one: Any) -> bool:
        return bool(one.name == wanted)

    filters = listener.listener_filters
    if editing.edit(filters, patch, is_wanted if wanted else None, len(filters)):
        patching.applied(patch)
    for one in filters if patch.merges else ():
        if wanted in {"", one.name}:
            editing.merge_filter(one, patch, patching, is_named=bool(wanted))


def _patch_chains(listener: listener_pb2.Listener, patching: Patching) -> None:
    """Patch the chains that are of no service."""
    port = _port(listener)
    if listener.name == names.MAIN_INTERNAL:
        chains.patch_chain(listener.default_filter_chain, listener.name, port, patching)
    else:
        kept = [one for one in listener.filter_chains if chains.patch_chain(one, listener.name, port, patching)]
        del listener.filter_chains[:]
        listener.filter_chains.extend(kept)
    for patch in patching.of(ApplyTo.FILTER_CHAIN):
        if patch.operation is not Operation.ADD or not _is_for(patch.match, listener):
            continue
        if listener.name == names.MAIN_INTERNAL:
            patching.failed(patch, "main_internal has a chain for each port of a service, and nothing leads to others")
        else:
            listener.filter_chains.append(patch.value)
            patching.applied(patch)
