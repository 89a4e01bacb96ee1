"""Who sees the hosts of a ServiceEntry: its ``exportTo``, bounded by the mesh's ``serviceEntryVisibility``.

Proxies know two kinds of visibility, all namespaces and the service's own. A list of other namespaces in ``exportTo``
cannot be expressed and is taken for all, which is what Istio's ambient mode makes of every ``exportTo``.
"""

from typing import Final

from controlplane.inputs.mesh import MeshContext
from meshapi.mesh_config.model import Visibility
from meshapi.resources.core import Namespace
from meshapi.resources.networking import ServiceEntry

_NONE: Final = frozenset({"~"})
_OWN: Final = "."
_ORDER: Final = (Visibility.NONE, Visibility.NAMESPACE, Visibility.PUBLIC)


def of_entry(entry: ServiceEntry, mesh: MeshContext, namespace: Namespace | None) -> Visibility:
    """Return the visibility of an entry in its namespace (``None``: not known yet): the narrower of the two."""
    given = frozenset(entry.spec.export_to or mesh.default_export_to)
    exported = Visibility.PUBLIC
    if given == _NONE:
        exported = Visibility.NONE
    elif given and given <= {_OWN, entry.metadata.namespace}:
        exported = Visibility.NAMESPACE
    if mesh.service_entry_visibility is None:
        return exported
    labels = namespace.metadata.labels if namespace is not None else {}
    return min(exported, mesh.service_entry_visibility.of(labels), key=_ORDER.index)
