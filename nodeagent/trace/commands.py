"""``culvert trace``: run as root on a node, or in its node agent's container, which has no bcc."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from meshapi import names
from nodeagent.trace import pods, report
from nodeagent.trace.access_log import Entry, NoAccessLog, Reader
from nodeagent.trace.events import TROUBLE, KernelEvent
from nodeagent.trace.kernel import Kernel, NoKernelEvents, open_kernel
from nodeagent.trace.latency import Latency
from nodeagent.trace.pods import Pods
from nodeagent.trace.timeline import Connection, Journal

app = typer.Typer(
    invoke_without_command=True,
    help="Connections of this node as they happen, step by step.",
    context_settings={"allow_interspersed_args": True},  # a group's options may not follow its arguments otherwise
)

_POLL_S: Final = 0.05


class Form(StrEnum):
    """Form of the output."""

    TEXT = "text"
    JSON = "json"
    """One document a line."""


@app.callback(invoke_without_command=True)
def trace(
    *,
    source: Annotated[str, typer.Argument(help="Only from: POD[.NAMESPACE], NAMESPACE/POD or an address.")] = "",
    destination: Annotated[str, typer.Argument(help="Only to: as SOURCE, or a service's host; :PORT too.")] = "",
    drops: Annotated[
        bool, typer.Option("--drops", help="Packets that were dropped or sent again, and resets, instead.")
    ] = False,
    latency: Annotated[bool, typer.Option("--latency", help="A histogram of each caller at the end, instead.")] = False,
    seconds: Annotated[float, typer.Option("--for", help="End after so many seconds; 0: when interrupted.")] = 0.0,
    count: Annotated[int, typer.Option(help="End after so many connections; 0: when interrupted.")] = 0,
    output: Annotated[Form, typer.Option("--output", "-o", help="Form of the output.")] = Form.TEXT,
    access_log: Annotated[Path, typer.Option(help="ztunnel's socket for readers of its access log.")] = Path(
        names.ACCESS_LOG_SOCKET
    ),
) -> None:
    """Show connections as they end: capture, tunnel, policy, first byte, close, with the time between."""
    if os.geteuid() != 0:
        _fail("needs root")
    if drops and latency:
        _fail("--drops and --latency are two questions; ask one")
    with ExitStack() as stack:
        known = _pods()  # first: the probes would see the question
        kernel = _kernel(stack, with_drops=drops)
        log = _log(stack, access_log)
        if kernel is None and log is None:
            raise typer.Exit(1)
        tracer = _Tracer(known, (source, destination), output, kernel=kernel, log=log)
        _say("tracing; ctrl-c ends it")
        show = tracer.drops if drops else tracer.latency if latency else tracer.connections
        with _until_interrupted():
            show(_Limit(seconds, count))
        tracer.finish()


class _Limit:
    """When to end."""

    def __init__(self, seconds: float, count: int) -> None:
        self._end = time.monotonic() + seconds if seconds else float("inf")
        self._left: float = count or float("inf")

    def shown(self) -> None:
        self._left -= 1

    @property
    def has_all(self) -> bool:
        return self._left <= 0

    @property
    def is_reached(self) -> bool:
        return self.has_all or time.monotonic() >= self._end


class _Tracer:
    """Reads both sources, and shows what was asked for."""

    def __init__(
        self, known: Pods, wanted: tuple[str, str], form: Form, *, kernel: Kernel | None, log: Reader | None
    ) -> None:
        self._pods = known
        self._wanted = wanted
        self._form = form
        self._kernel = kernel
        self._log = log
        self._journal = Journal()
        self._troubles: Counter[str] = Counter()
        self._latency = Latency("from connect to the first byte" if kernel else "duration, by ztunnel's access log")

    def connections(self, limit: _Limit) -> None:
        """Show each connection when it has ended."""
        for one in self._finished(limit):
            self._show_connection(one)
            limit.shown()

    def latency(self, limit: _Limit) -> None:
        """Count the time of each connection at its caller's end."""
        for one in self._finished(limit):
            if one.is_from_tunnel or (one.entry and one.entry.is_inbound):
                continue
            seconds = one.first_byte_s if self._kernel else one.entry.duration_s if one.entry else None
            source, _ = report.ends(one, self._pods)
            if seconds is not None:
                self._latency.add(source.name or source.address, seconds)
                limit.shown()

    def drops(self, limit: _Limit) -> None:
        """Show what goes wrong: of the kernel, packets; of ztunnel, connections that it refused or that broke."""
        while not limit.is_reached:
            events, entries = self._read()
            for event in events:
                if event.what in TROUBLE and self._is_wanted(self._pods.end(event.local), self._pods.end(event.remote)):
                    self._troubles[report.reason(event)] += 1
                    self._show_trouble(event)
                    limit.shown()
            for entry in entries:
                if entry.error:
                    self._journal.logged(entry)
            for one in filter(self._is_asked_for, self._journal.finished(time.time())):
                self._troubles["refused or broken at ztunnel"] += 1
                self._show_connection(one)
                limit.shown()

    def finish(self) -> None:
        """Show what is counted, and what was missed."""
        if self._troubles and self._form is Form.TEXT:
            typer.echo(report.summary(self._troubles))
        if self._latency.document["callers"]:
            typer.echo(str(self._latency) if self._form is Form.TEXT else json.dumps(self._latency.document))
        if self._kernel is not None and self._kernel.lost:
            _say(f"{self._kernel.lost} events of the kernel did not fit into its buffers: what is shown has gaps")
        if self._log is not None and self._log.unread:
            _say(f"{self._log.unread} lines of ztunnel's were no entries in text or JSON: is accessLogFormat set?")

    def _finished(self, limit: _Limit) -> Iterator[Connection]:
        """Give connections that are complete until the limit, and then those that are open."""
        while not limit.is_reached:
            events, entries = self._read()
            for event in events:
                self._journal.kernel(event)
            for entry in entries:
                self._journal.logged(entry)
            for one in filter(self._is_asked_for, self._journal.finished(time.time())):
                yield one
                if limit.has_all:
                    return
        yield from filter(self._is_asked_for, self._journal.rest())

    def _read(self) -> tuple[list[KernelEvent], list[Entry]]:
        events = self._kernel.poll(_POLL_S) if self._kernel else []
        entries = self._log.poll(0.0 if self._kernel else _POLL_S) if self._log else []
        return sorted(events, key=lambda event: event.at_s), entries

    def _is_asked_for(self, connection: Connection) -> bool:
        return self._is_wanted(*report.ends(connection, self._pods))

    def _is_wanted(self, source: pods.End, destination: pods.End) -> bool:
        return pods.matches(self._wanted[0], source) and pods.matches(self._wanted[1], destination)

    def _show_connection(self, one: Connection) -> None:
        if self._form is Form.TEXT:
            typer.echo(report.text(one, self._pods) + "\n")
        else:
            typer.echo(json.dumps(report.document(one, self._pods)))

    def _show_trouble(self, event: KernelEvent) -> None:
        if self._form is Form.TEXT:
            typer.echo(report.trouble(event, self._pods))
        else:
            typer.echo(json.dumps(report.trouble_document(event, self._pods)))


def _kernel(stack: ExitStack, *, with_drops: bool) -> Kernel | None:
    try:
        kernel = open_kernel(with_drops=with_drops)
    except NoKernelEvents as error:
        _say(f"only what ztunnel reports is shown: {error}")
        return None
    stack.callback(kernel.close)
    if kernel.missing:
        _say(f"this kernel does not show {', '.join(kernel.missing)}")
    return kernel


def _log(stack: ExitStack, path: Path) -> Reader | None:
    try:
        reader = Reader(path)
    except NoAccessLog as error:
        _say(str(error))
        return None
    stack.callback(reader.close)
    return reader


def _pods() -> Pods:
    try:
        return pods.fetch()
    except OSError as error:
        _say(f"pods are shown by address only, the node agent does not answer: {error}")
        return Pods([])


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        return
    except NoAccessLog as error:
        _fail(str(error))


def _say(line: str) -> None:
    typer.echo(f"culvert trace: {line}", err=True)


def _fail(line: str) -> None:
    _say(line)
    raise typer.Exit(1)
