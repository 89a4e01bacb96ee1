"""Whether a pod may reach only what the registry knows. Pure."""

from collections.abc import Mapping

from meshapi import names


def is_registry_only(labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
    """Return whether a pod may reach only what the registry knows.

    Args:
        labels: of the pod.
        namespace_labels: of its namespace.
    """
    allowed = {None, names.EGRESS_ALLOW_ANY}
    return not {labels.get(names.EGRESS_LABEL), namespace_labels.get(names.EGRESS_LABEL)} <= allowed
