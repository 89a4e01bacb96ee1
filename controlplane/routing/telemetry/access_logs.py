"""Where a waypoint logs requests and connections: Telemetries, else the default providers, else ``accessLogFile``.

A waypoint is on the server's side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meshapi.mesh_config import providers as builtin
from meshapi.mesh_config.log_providers import FileLog
from meshapi.mesh_config.model import MeshConfig
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.telemetry import AccessLogging, Telemetry, WorkloadMode

_NOWHERE: Final = frozenset({None, "", "/dev/null"})


@dataclass(frozen=True, slots=True)
class Log:
    """Where something is logged.

    Attributes:
        provider: the provider.
        expression: what is logged (CEL); empty: everything.
    """

    provider: ExtensionProvider
    expression: str = ""


@dataclass(frozen=True, slots=True)
class _Said:
    """What is said of one provider."""

    is_off: bool
    expression: str


def chosen(
    telemetries: Sequence[Telemetry], config: MeshConfig, usable: Mapping[str, ExtensionProvider]
) -> tuple[Log, ...]:
    """Return where a waypoint logs, in the order of the providers' names.

    Args:
        telemetries: the ones in force, the most general one first.
        config: the mesh configuration.
        usable: providers that can take access logs, by name in lower case.
    """
    said = _merged([one.spec.access_logging for one in telemetries], config.default_providers.access_logging)
    known = {name: one for name, one in said.items() if name in usable}
    if known:
        return tuple(Log(usable[name], known[name].expression) for name in sorted(known) if not known[name].is_off)
    if config.access_log_file in _NOWHERE:
        return ()
    of_mesh = ExtensionProvider(name=builtin.ENVOY, envoy_file_access_log=FileLog(path=config.access_log_file or ""))
    return (Log(of_mesh),)


def _merged(levels: Sequence[Sequence[AccessLogging]], defaults: Sequence[str]) -> dict[str, _Said]:
    """Return what is said of each provider, by its name in lower case.

    The last level that names providers says which ones there are. An entry without providers is for those of the entry
    before it. A filter stays until an entry names the provider again, or has a filter of its own.
    """
    defaults = [name.lower() for name in defaults]
    levels = [level for level in levels if level]
    if not levels:
        return {name: _Said(is_off=False, expression="") for name in defaults}
    named: Sequence[str] = defaults
    expressions: dict[str, str] = {}
    is_off: dict[str, bool] = {}
    inherited: Sequence[str] = defaults
    for level in levels:
        of_level: list[str] = []
        for entry in level:
            own = [one.name.lower() for one in entry.providers]
            inherited = own or inherited
            if not entry.match.mode.covers(WorkloadMode.SERVER):
                continue
            of_level += own
            if own or entry.filter is not None:
                expression = "" if entry.filter is None else entry.filter.expression
                expressions.update(dict.fromkeys(inherited, expression))
            is_off.update(dict.fromkeys(inherited, bool(entry.disabled)))
        named = of_level or named
    return {name: _Said(off, expressions.get(name, "")) for name, off in is_off.items() if name in set(named)}
