"""What is wrong with an EnvoyFilter, for its condition. Pure."""

from collections.abc import Iterator

from controlplane.envoy.layer7 import Layer7
from controlplane.graph.derived import Fetch
from meshapi.resources.envoy_filter import EnvoyFilter


def problems_of(layer7: Layer7, item: EnvoyFilter, fetch: Fetch) -> Iterator[str]:
    """Yield which patches of an EnvoyFilter have no effect, and why. A patch has to match at one place at least."""
    found = fetch.find(layer7.patches.readings, item.key)
    if found is None:
        return
    yield from found.problems
    effects = layer7.envoy.effects(item.key, fetch)
    applied = {one.index for one in effects if not one.problem}
    failed = {one.index: one.problem for one in sorted(effects, key=lambda one: one.problem) if one.problem}
    for patch in found.patches:
        path = f"spec.configPatches[{patch.index}]"
        if patch.index in failed:
            yield f"{path}: {failed[patch.index]}"
        elif patch.index not in applied:
            yield (
                f"{path} matches nothing of {patch.apply_to} that waypoints have for its targets; "
                "see culvert proxy-config for what there is"
            )
