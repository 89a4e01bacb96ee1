"""``culvert lab``: real Kubernetes on this computer, for trying, developing and testing."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from meshlab import addons, images, lab, requirements, state
from meshlab.errors import LabError
from meshlab.images import Image
from meshlab.lab import Change, MachineStatus
from meshlab.machines import hosts
from meshlab.progress import Progress

DEFAULT_NAME = "lab"

app = typer.Typer(help="Real Kubernetes on this computer, without virtual machines or a container engine.")
images_app = typer.Typer(help="Images of a lab's nodes.")
app.add_typer(images_app, name="images")

Name = Annotated[str, typer.Option(help="Which lab; several can run side by side.")]


@app.callback()
def _needs_root() -> None:
    with _plain_errors():
        requirements.check_root()


@app.command()
def up(
    name: Name = DEFAULT_NAME,
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 2,
    dual_stack: Annotated[bool, typer.Option("--dual-stack", help="IPv4 and IPv6.")] = False,
    samples: Annotated[bool, typer.Option("--samples", help="Load the samples' image too.")] = False,
    host: Annotated[
        list[str] | None, typer.Option(help="IPv4 address of a machine that becomes a node, by SSH; once for each.")
    ] = None,
) -> None:
    """Bring a lab up; one that is up stays as it is."""
    extra = [images.samples] if samples else []
    with _plain_errors():
        on_hosts = _addresses(host or [], dual_stack=dual_stack)
        size = len(on_hosts) or nodes
        change = lab.up(name, nodes=size, dual_stack=dual_stack, progress=Progress(), extra=extra, on_hosts=on_hosts)
    if change is Change.NOTHING:
        typer.echo(f"lab {name} is up already, nothing to do", err=True)
    typer.echo(f"export KUBECONFIG={state.kubeconfig(name)}")


@app.command()
def down(name: Name = DEFAULT_NAME) -> None:
    """Remove a lab and everything that it left on this computer."""
    with _plain_errors():
        change = lab.down(name, progress=Progress())
    if change is Change.NOTHING:
        typer.echo(f"there is no lab {name}, nothing to do", err=True)


@app.command()
def status(name: Name = DEFAULT_NAME) -> None:
    """Say which machines and services run, and which nodes are ready; status 1 if something does not."""
    with _plain_errors():
        machines = lab.status(name)
    for machine in machines:
        typer.echo(_line(machine))
    if not all(_sound(machine) for machine in machines):
        raise typer.Exit(1)


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="As node1-kubelet or control-kube-apiserver; none lists them.")] = "",
    name: Name = DEFAULT_NAME,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
) -> None:
    """Show the log of a service."""
    with _plain_errors():
        folder = state.folder(name) / "logs"
        known = lab.logs(name)
        if follow and lab.existing(name).hosts:
            raise LabError(
                f"lab {name} is on hosts, this is a copy: `culvert lab shell NODE`, then tail -f {hosts.LOGS}"
            )
        if service and service not in known:
            raise LabError(f"lab {name} has no log {service}; it has {', '.join(known)}")
    if not service:
        typer.echo("\n".join(known))
        return
    _become(["tail", *(["-n", "+1", "-f"] if follow else ["-n", "+1"]), str(folder / f"{service}.log")])


@app.command()
def shell(node: Annotated[str, typer.Argument(help="As node1, or control.")], name: Name = DEFAULT_NAME) -> None:
    """Open a shell on a machine."""
    with _plain_errors():
        command = lab.machine(name, node).command(["bash", "-l"])
    _become(command)


@app.command()
def kubeconfig(name: Name = DEFAULT_NAME) -> None:
    """Print the path of the admin's kubeconfig."""
    with _plain_errors():
        lab.existing(name)
    typer.echo(str(state.kubeconfig(name)))


@app.command()
def addon(
    what: Annotated[str, typer.Argument(help="As prometheus; none lists them.")] = "", name: Name = DEFAULT_NAME
) -> None:
    """Add something to a lab, as Prometheus, and print its address where it has one."""
    if not what:
        typer.echo("\n".join(f"{each}\t{known.about}" for each, known in addons.ADDONS.items()))
        return
    with _plain_errors():
        found = addons.named(what)
        url = lab.add(name, what, found, progress=Progress())
    if not url:
        return
    typer.echo(url)
    typer.echo(f"in the lab: http://{what}.{found.namespace}:{found.port}", err=True)


@images_app.command("load")
def load(
    context: Annotated[
        Path | None, typer.Argument(help="Folder with a Dockerfile; none means the samples.", exists=True)
    ] = None,
    tag: Annotated[str, typer.Option(help="Name of the image; needed with a folder.")] = "",
    dockerfile: Annotated[Path | None, typer.Option(help="If it is not CONTEXT/Dockerfile.", exists=True)] = None,
    build_arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, as often as needed.")] = None,
    name: Name = DEFAULT_NAME,
) -> None:
    """Build an image and load it into every node."""
    progress = Progress()
    with _plain_errors():
        lab.existing(name)
        if context is None:
            archive = images.samples(progress.say)
        elif tag:
            arguments = dict(each.split("=", 1) for each in build_arg or [] if "=" in each)
            source = Image(tag, (dockerfile or context / "Dockerfile").resolve(), context.resolve(), arguments)
            archive = images.build(source, progress.say)
        else:
            raise LabError(f"--tag is needed: name the image, as {images.PREFIX}/{context.resolve().name}:1")
        with progress.step(f"{archive.name} is on every node of lab {name}"):
            lab.load_images(name, [archive])


def _addresses(given: list[str], *, dual_stack: bool) -> list[str]:
    if given and dual_stack:
        raise LabError("--dual-stack: a lab on hosts has IPv4 only; leave the option out")
    for address in given:
        try:
            IPv4Address(address)
        except ValueError:
            raise LabError(f'--host: "{address}" is no IPv4 address') from None
    return given


def _line(machine: MachineStatus) -> str:
    if machine.services is None:
        return f"{machine.name}\tdoes not run"
    node = {None: "", True: "\tready", False: "\tnot ready"}[machine.ready]
    services = ", ".join(name if running else f"{name} (ended)" for name, running in machine.services.items())
    return f"{machine.name}{node}\t{services}"


def _sound(machine: MachineStatus) -> bool:
    return machine.services is not None and all(machine.services.values()) and machine.ready is not False


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except LabError as error:
        print(f"culvert lab: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(1) from None


def _become(command: list[str]) -> NoReturn:
    os.execvp(command[0], command)  # noqa: S606 - running a shell is the command's purpose
