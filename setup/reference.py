"""Makes ``docs/configuration.md`` from the settings classes (``python -m setup.reference [--check]``)."""

import sys
from pathlib import Path

from pydantic.fields import FieldInfo

from controlplane.settings import Settings
from meshapi import made_files
from meshkit.settings import ProcessSettings
from nodeagent.settings import NodeAgentSettings
from waypoint.settings import WaypointSettings
from ztunnel.settings import ZtunnelSettings

_TARGET = Path(__file__).parent.parent / "docs" / "configuration.md"
_HEAD = """# Configuration reference

<!-- Made by `make docs` from the settings classes; a test compares. Edit those, not this page. -->

Every setting is a flag and an environment variable; a flag wins. The chart's `values.yaml` sets what most users
need; the rest goes into `controlPlane.env`, `nodeAgent.env` and `ztunnel.env`.
A value that cannot be used ends the process at its start with status 2 and one line that names it.
"""
_PROCESSES: tuple[tuple[str, type[ProcessSettings]], ...] = (
    ("culvert-controlplane", Settings),
    ("culvert-nodeagent", NodeAgentSettings),
    ("culvert-ztunnel", ZtunnelSettings),
    ("culvert-waypoint", WaypointSettings),
)


def render() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for name, settings in _PROCESSES:
        parts.append(f"\n## {name}\n\n| flag | environment | default | meaning |\n| --- | --- | --- | --- |\n")
        parts += [_row(field, info) for field, info in settings.model_fields.items()]
    return "".join(parts)


def _row(name: str, info: FieldInfo) -> str:
    alias = info.validation_alias
    variables = [str(choice) for choice in getattr(alias, "choices", [name])]
    environment = ", ".join(f"`{variable.upper()}`" for variable in variables)
    default = "required" if info.is_required() else f"`{_plain(info.default)}`"
    return f"| `--{name.replace('_', '-')}` | {environment} | {default} | {info.description or ''} |\n"


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` only compare; return the exit status."""
    return made_files.write_or_check([(_TARGET, render())], arguments, "make docs")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
