"""Messages of one computation, with what had a part in them."""

from collections.abc import Iterable

from envoy.config.cluster.v3 import cluster_pb2

from controlplane.envoy.patches import clusters as cluster_patches
from controlplane.envoy.patches.patch import Patching
from controlplane.envoy.placing import Made, Message, placed
from controlplane.envoy.upstreams import Upstreams


def assembled(upstreams: Upstreams, messages: Iterable[Message], patching: Patching) -> Made:
    """Return messages for the view of a computation, with everything that had a part in them."""
    return Made(
        placed(upstreams.view, messages),
        frozenset({*upstreams.sources, *patching.sources}),
        frozenset(upstreams.foreign),
        frozenset(patching.effects),
        frozenset(upstreams.credentials),
    )


def patched_clusters(made: Iterable[cluster_pb2.Cluster], patching: Patching) -> list[cluster_pb2.Cluster]:
    """Return clusters with the patches applied, without those that a patch removes."""
    return [one for cluster in made if (one := cluster_patches.patched(cluster, patching)) is not None]
