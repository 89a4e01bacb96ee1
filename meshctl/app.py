"""The command ``culvert``: finds its commands and runs one of them.

Groups that live in packages which the command line must not import are found by the entry point group
``culvert.commands``. In a source tree that is not installed there is no such metadata; ``pyproject.toml`` beside the
packages says the same, and is read instead.

Only the command that is asked for is imported: together they take more than a second.
"""

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

GROUP: Final = "culvert.commands"
_OWN: Final = {
    "install": "meshctl.install:install",
    "uninstall": "meshctl.uninstall:uninstall",
    "verify-install": "meshctl.verify_install:verify_install",
    "version": "meshctl.version:version",
    "status": "meshctl.status:status",
    "analyze": "meshctl.analyze:analyze",
    "bug-report": "meshctl.bug_report:bug_report",
    "wait": "meshctl.wait:wait",
    "explain": "meshctl.explain:explain",
    "proxy-status": "meshctl.proxy_status:proxy_status",
    "ps": "meshctl.proxy_status:proxy_status",
    "ztunnel-config": "meshctl.ztunnel_config:app",
    "proxy-config": "meshctl.proxy_config.commands:app",
    "pc": "meshctl.proxy_config.commands:app",
    "describe": "meshctl.describe:app",
    "waypoint": "meshctl.waypoint:app",
}
"""Commands and groups of this package, and where they are."""
_HIDDEN: Final = {"ps", "pc"}


def main() -> None:
    """Run the command line; a group that does not load ends it with status 1 and one line."""
    app = typer.Typer(
        name="culvert",
        help="Ambient-style service mesh for Linux nodes.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
    )
    app.callback()(_root)
    own = [EntryPoint(name=name, value=value, group=GROUP) for name, value in _OWN.items()]
    every = {entry.name: entry for entry in (*own, *sorted(_groups(), key=lambda entry: entry.name))}
    asked = every.get(next(iter(sys.argv[1:]), ""))
    for entry in (asked,) if asked else every.values():
        found = _load(entry)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=entry.name, hidden=entry.name in _HIDDEN)
        elif entry.name in _OWN:
            app.command(entry.name, hidden=entry.name in _HIDDEN)(found)
        else:
            _fail(f"culvert {entry.name}: {entry.value} is not a typer application")
    app()


def _root() -> None:
    """Ambient-style service mesh for Linux nodes."""


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # whatever a package does at import, the user must learn which one it was
        _fail(f"culvert {entry.name}: {entry.value} does not load: {type(error).__name__}: {error}")


def _groups() -> Iterator[EntryPoint]:
    installed = entry_points(group=GROUP)
    if installed:
        yield from installed
        return
    declared = Path(__file__).parent.parent / "pyproject.toml"
    if declared.is_file():
        project = tomllib.loads(declared.read_text())["project"]
        for name, value in project.get("entry-points", {}).get(GROUP, {}).items():
            yield EntryPoint(name=name, value=value, group=GROUP)


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201
    raise SystemExit(1)
