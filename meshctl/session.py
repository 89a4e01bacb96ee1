"""What every command needs: options of the cluster, a client, and errors that are one line."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from meshapi import names
from meshkit import kube

Kubeconfig = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Kubeconfig file; default: $KUBECONFIG, then ~/.kube/config.")
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig; default: the current one.")]
Yes = Annotated[bool, typer.Option("--skip-confirmation", "-y", help="As with istioctl; nothing is asked in any case.")]
SystemNamespace = Annotated[
    str, typer.Option("--istio-namespace", "-i", help="Namespace that Culvert is installed in.")
]
DEFAULT_NAMESPACE = names.DEFAULT_NAMESPACE

T = TypeVar("T")


class CommandError(Exception):
    """A command failed; the text is one sentence for the user."""


def run(
    command: str, work: Callable[[kube.Client], Awaitable[T]], *, kubeconfig: Path | None, context: str | None
) -> T:
    """Run ``work`` with a client of the cluster; what goes wrong is one line, and status 1."""

    async def with_client() -> T:
        async with kube.Client(await kube.load(kubeconfig, context)) as client:
            return await work(client)

    try:
        return asyncio.run(with_client())
    except (CommandError, kube.KubeError) as error:
        fail(command, str(error))
    except KeyboardInterrupt:
        fail(command, "interrupted")


def fail(command: str, message: str) -> NoReturn:
    """End with one line and status 1."""
    print(f"culvert {command}: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(1)


def say(line: str) -> None:
    """Write a line of progress; results go to standard output, this does not."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
