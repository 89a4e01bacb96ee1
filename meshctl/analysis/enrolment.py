"""Namespaces and pods that are, or are meant to be, in the mesh."""

from collections.abc import Iterator
from typing import Final

from meshapi import names
from meshapi.analysis.enrolment import Enrolment
from meshapi.resources import core
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.world import World

_MODES: Final = frozenset({names.DATAPLANE_MODE_AMBIENT, names.DATAPLANE_MODE_NONE})


def check(world: World) -> Iterator[Finding]:
    """Return what is wrong with enrolment."""
    for item in (*world.all(core.Namespace), *world.all(core.Pod)):
        mode = item.metadata.labels.get(names.DATAPLANE_MODE_LABEL)
        if mode is not None and mode not in _MODES:
            path = f"metadata.labels[{names.DATAPLANE_MODE_LABEL}]"
            yield world.finding(Code.MODE_LABEL, item, path, f"{mode!r} is not known; write ambient or none")
    for pod in world.all(core.Pod):
        yield from _pod(world, pod)


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
