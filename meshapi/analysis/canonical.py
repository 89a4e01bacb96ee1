"""Canonical name and revision of a workload, for pods and for entries alike.

Source: istio/istio, ``pkg/model/labels.go``: Istio's own label, then Kubernetes' recommended one, then the short one.
"""

from collections.abc import Mapping

from meshapi import names

_NAME = (names.CANONICAL_NAME_LABEL, names.APP_NAME_LABEL, names.APP_LABEL)
_REVISION = (names.CANONICAL_REVISION_LABEL, names.APP_VERSION_LABEL, names.VERSION_LABEL)


def name(labels: Mapping[str, str], workload: str) -> str:
    """Return the canonical service name; the workload's name without a label for it."""
    return _first(labels, _NAME) or workload


def revision(labels: Mapping[str, str]) -> str:
    """Return the canonical revision; ``latest`` without a label for it."""
    return _first(labels, _REVISION) or "latest"


def _first(labels: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((labels[key] for key in keys if labels.get(key)), "")
