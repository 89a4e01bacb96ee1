"""Namespaces and pods that are, or are meant to be, in the mesh."""

from collections.abc import Iterator
from typing import Final

from meshapi import names
from meshapi.analysis.egress import is_registry_only
from meshapi.analysis.enrolment import Enrolment
from meshapi.resources import core
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.world import World

_EGRESS: Final = frozenset({names.EGRESS_REGISTRY_ONLY, names.EGRESS_ALLOW_ANY})
_MODES: Final = frozenset({names.DATAPLANE_MODE_AMBIENT, names.DATAPLANE_MODE_NONE})


def check(world: World) -> Iterator[Finding]:
    """Return what is wrong with enrolment."""
    for item in (*world.all(core.Namespace), *world.all(core.Pod)):
        mode = item.metadata.labels.get(names.DATAPLANE_MODE_LABEL)
        if mode is not None and mode not in _MODES:
            path = f"metadata.labels[{names.DATAPLANE_MODE_LABEL}]"
            yield world.finding(Code.MODE_LABEL, item, path, f"{mode!r} is not known; write ambient or none")
    for namespace in world.all(core.Namespace):
        yield from _egress(world, namespace)
    for pod in world.all(core.Pod):
        yield from _egress(world, pod)
        yield from _pod(world, pod)


def _egress(world: World, item: core.Namespace | core.Pod) -> Iterator[Finding]:
    value = item.metadata.labels.get(names.EGRESS_LABEL)
    path = f"metadata.labels[{names.EGRESS_LABEL}]"
    if value is None:
        return
    if value not in _EGRESS:
        values = f"{names.EGRESS_REGISTRY_ONLY} or {names.EGRESS_ALLOW_ANY}"
        text = f"{value!r} counts as {names.EGRESS_REGISTRY_ONLY}; write {values}"
        yield world.finding(Code.EGRESS_LABEL, item, path, text)
    if isinstance(item, core.Pod):
        namespace = world.namespace_labels(item.metadata.namespace)
        if value == names.EGRESS_ALLOW_ANY and is_registry_only({}, namespace):
            text = (
                "the pod's namespace forbids what is not in the registry, and a pod cannot allow it; remove the label"
            )
            yield world.finding(Code.EGRESS_LABEL, item, path, text)
    elif value != names.EGRESS_ALLOW_ANY and not world.rules.enrol(item.metadata.name, item.metadata.labels):
        text = "the namespace's pods are not captured, so the label holds none; enrol the namespace"
        yield world.finding(Code.EGRESS_LABEL, item, path, text)


def _pod(world: World, pod: core.Pod) -> Iterator[Finding]:
    annotations = pod.metadata.annotations
    captured = annotations.get(names.REDIRECTION_ANNOTATION) == names.REDIRECTION_ENABLED
    if captured or pod.status.phase != "Running" or pod.metadata.deletion_timestamp:
        return
    result = world.enrolment(pod)
    if result is Enrolment.SIDECAR and world.is_labelled(pod):
        text = "the pod has a sidecar, which carries its traffic; remove the sidecar to have it captured"
        yield world.finding(Code.SIDECAR, pod, "", text)
    if result is not Enrolment.ENROLLED:
        return
    node = pod.spec.node_name
    text = f"the pod is enrolled and not captured, its traffic is plain text; see the node agent's log on {node}"
    yield world.finding(Code.NOT_CAPTURED, pod, "", text)
