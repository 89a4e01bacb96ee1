"""The mesh configuration: values that are not valid, fields without an effect, and what it leaves undiscovered."""

from collections.abc import Iterator

from meshapi import names
from meshapi.mesh_config import reading
from meshapi.resources import core
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.world import World


def check(world: World) -> Iterator[Finding]:
    """Return what is wrong with the mesh configuration."""
    if world.mesh_config is None:
        return
    namespace, _, name = world.mesh_config.name.partition("/")

    def finding(code: Code, field: str, text: str) -> Finding:
        return Finding(code, "ConfigMap", namespace, name, reading.path(field), text, world.mesh_config_origin)

    for fault in world.mesh_config.faults:
        yield finding(Code.MESH_CONFIG_VALUE, fault.field, fault.text)
    for notice in world.mesh_config.notices:
        code = Code.UNKNOWN_FIELD if notice.is_unknown else Code.MESH_CONFIG_FIELD
        yield finding(code, notice.field, notice.text)
    selectors = reading.config_of(world.mesh_config.content).discovery_selectors
    for item in world.all(core.Namespace) if selectors else ():
        labels = item.metadata.labels
        is_enrolled = labels.get(names.DATAPLANE_MODE_LABEL) == names.DATAPLANE_MODE_AMBIENT
        if is_enrolled and not any(selector.matches(labels) for selector in selectors):
            text = (
                "no discoverySelector of the mesh configuration matches these labels, so connections of captured pods "
                "are refused here; add a label that one matches, or remove the enrolment label"
            )
            yield world.finding(Code.NOT_DISCOVERED, item, "metadata.labels", text)
