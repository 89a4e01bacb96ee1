"""Which namespaces an object of routing counts for. Source: istio/api, ``exportTo``."""

from meshapi.resources.destination_rule import DestinationRule
from meshapi.resources.virtual_service import VirtualService


def is_exported(item: DestinationRule | VirtualService, namespace: str) -> bool:
    """Return whether an object counts for the proxies, or may be named by the objects, of a namespace."""
    own = item.metadata.namespace == namespace
    return any(name in {"*", namespace} or (name == "." and own) for name in item.spec.export_to or ("*",))
