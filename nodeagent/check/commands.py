"""``culvert check``: run as root on a node, or in its node agent's container; before the installation or after it."""

import json
import os
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import typer

from meshapi import names
from nodeagent.capture.choice import Wanted
from nodeagent.capture.ebpf.places import Places, find
from nodeagent.check import backends, conflicts, features, host
from nodeagent.check.result import Level, Result, exit_code, table

app = typer.Typer(
    invoke_without_command=True, help="Whether this node can be of a mesh, and how its pods are captured."
)

_MOUNTED: Final = Path("/host")
"""Where the node agent's container has the host's folders."""


class Form(StrEnum):
    """Form of the report."""

    TABLE = "table"
    JSON = "json"


@app.callback(invoke_without_command=True)
def check(
    *,
    output: Annotated[Form, typer.Option("--output", "-o", help="Form of the report.")] = Form.TABLE,
    capture_backend: Annotated[
        Wanted, typer.Option(envvar="CAPTURE_BACKEND", help="The node agent's setting.")
    ] = Wanted.AUTO,
    capture_guard: Annotated[bool, typer.Option(envvar="CAPTURE_GUARD", help="The node agent's setting.")] = True,
    bpf_pins: Annotated[Path, typer.Option(envvar="BPF_PINS", help="The node agent's setting.")] = Path(names.BPF_PINS),
) -> None:
    """Try the kernel's features and look around; exit status 0: all well, 1: works with limits, 2: does not work."""
    if os.geteuid() != 0:
        typer.echo("culvert check needs root", err=True)
        raise typer.Exit(2)
    results = list(_results(capture_backend, bpf_pins, guard=capture_guard))
    if output is Form.JSON:
        typer.echo(json.dumps([result.document for result in results], indent=2))
    else:
        typer.echo(table(results))
    raise typer.Exit(exit_code(results))


def _results(wanted: Wanted, pins: Path, *, guard: bool) -> Iterator[Result]:
    tried = pins.with_name(f"{pins.name}-check-{os.getpid()}")
    places, lacking = _places(tried)
    cgroup = places.pods if places else None
    yield from features.check(tried, cgroup)
    if lacking:
        yield Result(features.AREA, "cgroups of the host", Level.LIMIT, lacking)
    yield from backends.check(wanted, Path(names.XTABLES_LOCK), places, guard=guard)
    yield from chain(
        host.check_mounts(Path("/proc/1/mountinfo"), pins),
        host.check_cni(_on_host(names.CNI_NET_DIR), _on_host(names.CNI_BIN_DIR), names.CNI_PLUGIN_NAME),
        conflicts.check_processes(Path("/proc")),
        conflicts.check_rules(),
        conflicts.check_hooks([places.root, places.pods] if places else []),
        host.check_clock(),
        host.check_mtu(Path("/sys/class/net")),
    )


def _places(pins: Path) -> tuple[Places | None, str]:
    try:
        return find(pins), ""
    except OSError as error:
        return None, str(error)


def _on_host(folder: str) -> Path:
    mounted = _MOUNTED / folder.lstrip("/")
    return mounted if mounted.is_dir() else Path(folder)
