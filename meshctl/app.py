"""The command ``culvert``: finds its command groups and runs one of them.

Groups that live in packages which the command line must not import are found by the entry point group
``culvert.commands``. In a source tree that is not installed there is no such metadata; ``pyproject.toml`` beside the
packages says the same, and is read instead.
"""

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final, NoReturn

import typer

from meshctl import (
    analyze,
    bug_report,
    describe,
    explain,
    install,
    proxy_status,
    status,
    uninstall,
    verify_install,
    version,
    wait,
    waypoint,
    ztunnel_config,
)
from meshctl.proxy_config import commands as proxy_config

GROUP: Final = "culvert.commands"


def main() -> None:
    """Run the command line; a group that does not load ends it with status 1 and one line."""
    app = typer.Typer(
        name="culvert",
        help="Ambient-style service mesh for Linux nodes.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
    )
    app.callback()(_root)
    for command in (
        install.install,
        uninstall.uninstall,
        verify_install.verify_install,
        version.version,
        status.status,
        analyze.analyze,
        bug_report.bug_report,
        wait.wait,
        explain.explain,
    ):
        app.command()(command)
    app.command("proxy-status")(proxy_status.proxy_status)
    app.command("ps", hidden=True)(proxy_status.proxy_status)
    app.add_typer(ztunnel_config.app, name="ztunnel-config")
    app.add_typer(proxy_config.app, name="proxy-config")
    app.add_typer(proxy_config.app, name="pc", hidden=True)
    app.add_typer(describe.app, name="describe")
    app.add_typer(waypoint.app, name="waypoint")
    for entry in sorted(_groups(), key=lambda entry: entry.name):
        app.add_typer(_load(entry), name=entry.name)
    app()


def _root() -> None:
    """Ambient-style service mesh for Linux nodes."""


def _load(entry: EntryPoint) -> typer.Typer:
    try:
        group = entry.load()
    except Exception as error:  # whatever a package does at import, the user must learn which one it was
        _fail(f"culvert {entry.name}: {entry.value} does not load: {type(error).__name__}: {error}")
    if not isinstance(group, typer.Typer):
        _fail(f"culvert {entry.name}: {entry.value} is not a typer application")
    return group


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
