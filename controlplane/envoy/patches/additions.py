"""What EnvoyFilters add to a waypoint beside what it has: listeners, clusters, configurations of extensions.

The first one of a name is added. Names that the control plane uses are refused: whoever may write an EnvoyFilter for a
service must not replace the cluster of another service.
"""

from collections.abc import Iterable
from typing import Any, Final

from controlplane.envoy import names
from controlplane.envoy.patches.patch import Patching
from controlplane.envoy.placing import Message
from meshapi import names as mesh_names
from meshapi.resources.envoy_filter import ApplyTo, Operation

_KINDS: Final = (ApplyTo.CLUSTER, ApplyTo.LISTENER, ApplyTo.EXTENSION_CONFIG)
_TAKEN: Final = frozenset(
    {
        names.CONNECT_TERMINATE,
        names.CONNECT_ORIGINATE,
        names.MAIN_INTERNAL,
        names.BLACK_HOLE,
        mesh_names.SDS_CLUSTER,
        mesh_names.XDS_CLUSTER,
    }
)
_TAKEN_PREFIXES: Final = ("inbound-vip|", "outbound|", f"{names.ENCAP}|")


def of(patching: Patching) -> Iterable[Message]:
    """Yield what is added, in the order of the patches."""
    for kind in _KINDS:
        used: set[str] = set()
        for patch in patching.of(kind):
            value: Any = patch.value
            if patch.operation is not Operation.ADD:
                continue
            if not value.name:
                patching.failed(patch, f"{kind} has no name; write patch.value.name")
            elif value.name in _TAKEN or value.name.startswith(_TAKEN_PREFIXES):
                patching.failed(patch, f"{kind} {value.name} is made by the control plane; write another name")
            elif value.name in used:
                patching.failed(patch, f"{kind} {value.name} was added before; write another name")
            else:
                used.add(value.name)
                patching.applied(patch)
                yield value
