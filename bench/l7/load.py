"""One load on one way to the server: fortio in a client's pod, and the use of processor and memory of the proxy."""

import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bench.l7.world import GRPC_PORT, HTTP_PORT, MESH, PLAIN
from tests.support.mesh import Mesh

CONNECTIONS: Final = 16
_HELD_S: Final = 6.0
_LIMIT_S: Final = 120.0
_GOOD: Final = frozenset({"200", "SERVING", "1"})
"""Results of requests: a status of HTTP, of a gRPC health check, of a gRPC ping."""
_STAT: Final = re.compile(r"^\d+ \(envoy\) \S+ (?:\S+ ){10}(\d+) (\d+) (?:\S+ ){8}(\d+)", re.MULTILINE)
"""Of a line of ``/proc/PID/stat``: user and system time in ticks, resident memory in pages (proc(5), 14, 15, 24)."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a client reaches the server.

    Attributes:
        name: for people.
        namespace: of the client.
        host: that it calls.
        proxy: Deployment of the proxy that is measured; empty: there is none.
    """

    name: str
    namespace: str
    host: str
    proxy: str = ""


DIRECT: Final = Way("direct", PLAIN, "server")
REVERSE: Final = Way("reverse proxy", PLAIN, "proxy", "proxy")
WAYPOINT: Final = Way("waypoint", MESH, "server", "waypoint")


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of requests.

    Attributes:
        name: for people.
        options: of fortio.
        size: bytes of an answer's body.
        is_grpc: whether they are gRPC calls, which carry as many bytes there.
    """

    name: str
    options: tuple[str, ...] = ()
    size: int = 0
    is_grpc: bool = False

    def arguments(self, host: str) -> list[str]:
        """Return fortio's options and the target."""
        if self.is_grpc:
            payload = [f"-payload-size={self.size}"] if self.size else []
            return [*self.options, "-grpc", "-ping", *payload, f"{host}:{GRPC_PORT}"]
        return [*self.options, f"http://{host}:{HTTP_PORT}/{f'?size={self.size}' if self.size else ''}"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured.

    Attributes:
        rate: requests a second with as much load as the clients make.
        cpu_us: the proxy's processor time for a request, in microseconds.
        p50_ms: median of the time of a request at half that rate, in milliseconds.
        p99_ms: 99th percentile likewise.
    """

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


def median(samples: Iterable[Sample]) -> Sample:
    """Return the medians of several runs."""
    columns = zip(*((one.rate, one.cpu_us, one.p50_ms, one.p99_ms) for one in samples), strict=True)
    return Sample(*(statistics.median(column) for column in columns))


def measure(mesh: Mesh, way: Way, case: Case, seconds: float) -> Sample:
    """Load a way with all that it takes, then with half of that."""
    before = _usage(mesh, way)[0]
    full = _run(mesh, way, case, seconds, rate=0.0)
    used = _usage(mesh, way)[0] - before
    half = _run(mesh, way, case, seconds, rate=full["ActualQPS"] / 2)
    times = {one["Percentile"]: one["Value"] * 1e3 for one in half["DurationHistogram"]["Percentiles"]}
    count = full["DurationHistogram"]["Count"]
    return Sample(full["ActualQPS"], used / count * 1e6, times[50], times[99])


def memory_kb(mesh: Mesh, way: Way, connections: int) -> float:
    """Return the proxy's resident memory for each of many connections that make one request a second, in kB."""
    _run(mesh, way, Case("few connections", ("-c=100",)), 1.0, rate=100)
    before = _usage(mesh, way)[1]
    many = Case("many connections", (f"-c={connections}",))
    command = _command(mesh, way, many, _HELD_S, connections)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        time.sleep(_HELD_S / 2)
        after = _usage(mesh, way)[1]
        assert running.wait(_LIMIT_S) == 0, f"{way.name}: connections failed"
    return (after - before) / connections / 1e3


def _run(mesh: Mesh, way: Way, case: Case, seconds: float, rate: float) -> dict[str, Any]:
    done = subprocess.run(
        _command(mesh, way, case, seconds, rate),
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    assert done.returncode == 0, f"{way.name}, {case.name}: {done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    bad = {code: count for code, count in found["RetCodes"].items() if code not in _GOOD}
    assert not bad, f"{way.name}, {case.name}: {bad}"
    return found


def _command(mesh: Mesh, way: Way, case: Case, seconds: float, rate: float) -> list[str]:
    fortio = ["fortio", "load", "-quiet", "-json=-", "-p=50,99", "-nocatchup", "-uniform", f"-c={CONNECTIONS}"]
    fortio += [f"-qps={rate:.1f}", f"-t={seconds}s", *case.arguments(way.host)]
    return mesh.command(way.namespace, "client", *fortio)


def _usage(mesh: Mesh, way: Way) -> tuple[float, float]:
    """Return the processor time of the proxy so far, in seconds, and its resident memory, in bytes."""
    if not way.proxy:
        return 0.0, 0.0
    read = "cat /proc/[0-9]*/stat 2>/dev/null; true"
    text = mesh.lab.run(way.proxy, "sh", "-c", read, namespace=way.namespace)
    found = [tuple(map(int, one)) for one in _STAT.findall(text)]
    assert found, f"{way.name}: no process is called envoy"
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    return sum(user + system for user, system, _ in found) / ticks, float(sum(one[2] for one in found) * page)
