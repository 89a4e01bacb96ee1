"""A large gateway: ``python -m bench.edge [--routes 5000] [--sets 50] [--plain]``.

A lab of its own, one Gateway, ListenerSets with a host and a certificate of their own each (``--plain``: all on one
port without TLS), HTTPRoutes spread over them, and httpbin behind all. Prints how long it takes until the last route is
served, how often the control plane has written, what control plane and Envoy have in memory, how long gateway and
control plane take to serve after a restart, and the time from the patch of a route to its effect: on the idle lab, and
while ten other routes change every second.
"""

import argparse
import asyncio
import random
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from bench.effect import NS, measure, report
from meshapi import names
from meshkit import kube
from meshkit.kube import kinds
from meshlab import images, lab
from tests.support import manifests
from tests.support.certificates import Issuer
from tests.support.lab import ROOT, install, running
from tests.support.mesh import SYSTEM, Mesh

LAB, EDGE = "edge", "edge"
CHANGES, CHURN_PER_S, AT_ONCE = 100, 10, 16
_CLIENT: Final = """
import http.client, ssl, sys, time
host, port = sys.argv[1:]
last = connection = None
while True:
    try:
        if connection is None:
            if port == "443":
                context = ssl._create_unverified_context()
                connection = http.client.HTTPSConnection("edge-istio", 443, context=context, timeout=5)
                connection.connect = lambda c=connection: setattr(
                    c, "sock", context.wrap_socket(c._create_connection(("edge-istio", 443), 5), server_hostname=host))
            else:
                connection = http.client.HTTPConnection("edge-istio", 80, timeout=5)
        connection.request("GET", "/status/200", headers={"Host": host})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection = None
        time.sleep(0.01)
        continue
    seen = answer.getheader("x-change")
    if seen != last and seen is not None:
        print(seen, time.time(), flush=True)
        last = seen
"""


class Edge:
    """The objects of the bench."""

    def __init__(self, mesh: Mesh, api: kube.Client, options: argparse.Namespace) -> None:
        self.mesh, self.api = mesh, api
        self.routes, self.sets, self.plain = options.routes, options.sets, options.plain

    def host(self, number: int) -> str:
        return f"r{number}.set{number % self.sets}.example"

    def route(self, number: int, change: int) -> dict[str, Any]:
        """Return the spec of a route, which adds the number of the change to answers."""
        add = {"set": [{"name": "x-change", "value": str(change)}]}
        parent = {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": f"set{number % self.sets}"}
        rule = {
            "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": add}],
            "backendRefs": [{"name": "httpbin", "port": 8000}],
        }
        return {"parentRefs": [parent], "hostnames": [self.host(number)], "rules": [rule]}

    async def create(self) -> None:
        """Create everything; returns when the API server has it."""
        await self._create(kinds.GATEWAY, EDGE, self._gateway())
        if not self.plain:
            self._certify()
        await self._many(self.sets, lambda number: self._create(kinds.LISTENER_SET, f"set{number}", self._set(number)))
        await self._many(
            self.routes, lambda number: self._create(kinds.HTTP_ROUTE, f"r{number}", self.route(number, 0))
        )

    def client(self, number: int) -> list[str]:
        """Return the command of a client that follows a route."""
        port = "80" if self.plain else "443"
        return self.mesh.command(NS, "curl", "python3", "-c", _CLIENT, self.host(number), port)

    async def effects(self, number: int) -> str:
        """Return the times of changes of one route, as one line."""

        def spec(change: int) -> dict[str, Any]:
            return self.route(number, change)

        found = await measure(self.api, self.client(number), kinds.HTTP_ROUTE, f"r{number}", spec, CHANGES)
        return report("a request has seen the change after", [effect for _, effect in found])

    async def served(self, number: int) -> float:
        """Change a route, and return after how many seconds it is served."""
        began = time.time()
        change = int(began)
        await self.api.patch(kinds.HTTP_ROUTE, f"r{number}", {"spec": self.route(number, change)}, NS)
        client = await asyncio.create_subprocess_exec(*self.client(number), stdout=asyncio.subprocess.PIPE)
        assert client.stdout is not None
        try:
            async with asyncio.timeout(600):
                while (line := (await client.stdout.readline()).split())[0] != str(change).encode():
                    pass
        finally:
            client.kill()
            await client.wait()
        return float(line[1]) - began

    @asynccontextmanager
    async def churn(self) -> AsyncIterator[None]:
        """Change other routes, some every second."""

        async def start() -> None:
            async with asyncio.TaskGroup() as group:
                while True:
                    group.create_task(self._change_one())
                    await asyncio.sleep(1 / CHURN_PER_S)

        task = asyncio.create_task(start())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _change_one(self) -> None:
        number = random.randrange(1, self.routes)
        await self.api.patch(kinds.HTTP_ROUTE, f"r{number}", {"spec": self.route(number, time.time_ns())}, NS)

    def _gateway(self) -> dict[str, Any]:
        listener = {"name": "own", "port": 8080, "protocol": "HTTP", "hostname": "own.example"}
        return {
            "gatewayClassName": "istio",
            "allowedListeners": {"namespaces": {"from": "Same"}},
            "listeners": [listener],
            "infrastructure": {"annotations": {names.GATEWAY_SERVICE_TYPE_ANNOTATION: "ClusterIP"}},
        }

    def _set(self, number: int) -> dict[str, Any]:
        listener: dict[str, Any] = {"name": "one", "port": 80, "protocol": "HTTP", "hostname": f"*.set{number}.example"}
        if not self.plain:
            tls = {"certificateRefs": [{"name": EDGE}]}
            listener |= {"port": 443, "protocol": "HTTPS", "tls": tls}
        return {"parentRef": {"name": EDGE}, "listeners": [listener]}

    def _certify(self) -> None:
        leaf, key = Issuer.root().leaf(
            [x509.DNSName("*.example")], usages=[ExtendedKeyUsageOID.SERVER_AUTH], life=timedelta(days=1)
        )
        self.mesh.lab.apply(manifests.tls_secret(EDGE, leaf, key), namespace=NS)

    async def _create(self, kind: kinds.Kind, name: str, spec: dict[str, Any]) -> None:
        body = {
            "apiVersion": f"{kind.group}/{kind.version}",
            "kind": kind.name,
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.api.create(kind, body, NS)

    async def _many(self, count: int, create: Any) -> None:
        waiting = iter(range(count))

        async def some() -> None:
            for number in waiting:
                await create(number)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def writes(mesh: Mesh) -> dict[str, int]:
    """Return how often statuses of kinds have been written, as the API server has counted."""
    found: dict[str, int] = {}
    for line in mesh.lab.kubectl("get", "--raw", "/metrics").splitlines():
        if line.startswith("apiserver_request_total") and 'subresource="status"' in line:
            name = re.search(r'resource="([^"]+)"', line)
            if name and re.search(r'verb="(APPLY|PATCH|PUT)"', line) and "gateway.networking" in line:
                found[name[1]] = found.get(name[1], 0) + int(float(line.split()[-1]))
    return found


def resident(mesh: Mesh) -> str:
    """Return what the processes of control plane and proxies have in memory."""
    found: dict[str, int] = {}
    for node in lab.existing(mesh.lab.name).plan.nodes:
        for line in lab.machine(mesh.lab.name, node.name).run(["ps", "-eo", "rss=,args="]).text.splitlines():
            size, _, command = line.strip().partition(" ")
            for name in ("culvert-controlplane", "envoy"):
                if re.search(rf"(^|/){name}\b", command):
                    found[name] = max(found.get(name, 0), int(size))
    return ", ".join(f"{name} {size / 1024:.0f} MB" for name, size in found.items())


async def _bench(mesh: Mesh, options: argparse.Namespace) -> None:
    async with kube.Client(await kube.from_kubeconfig(mesh.lab.kubeconfig)) as api:
        edge = Edge(mesh, api, options)
        began = time.time()
        await edge.create()
        created = time.time() - began
        await edge.served(edge.routes - 1)
        print(f"created in {created:.0f} s, the last one served after {time.time() - began:.0f} s", flush=True)
        await asyncio.sleep(10)
        before = writes(mesh)
        print(f"statuses written: {before}; resident: {resident(mesh)}", flush=True)
        print(f"idle: {await edge.effects(0)}", flush=True)
        middle = writes(mesh)
        async with edge.churn():
            print(f"{CHURN_PER_S} other changes a second: {await edge.effects(0)}", flush=True)
        after = writes(mesh)
        print(
            f"statuses written meanwhile: {_less(middle, before)} and {_less(after, middle)}; {resident(mesh)}",
            flush=True,
        )
        for what, namespace in ((f"{EDGE}-istio", NS), ("istiod", SYSTEM)):
            began = time.time()
            mesh.lab.kubectl("rollout", "restart", f"deploy/{what}", "-n", namespace)
            mesh.lab.rolled_out(what, namespace=namespace, timeout_s=300)
            ready = time.time() - began
            await edge.served(1)
            print(
                f"{what} restarted: rolled out after {ready:.1f} s, served after {time.time() - began:.1f} s",
                flush=True,
            )


def _less(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=5_000)
    parser.add_argument("--sets", type=int, default=50)
    parser.add_argument("--plain", action="store_true", help="HTTP on one port instead of HTTPS")
    options = parser.parse_args()
    with running(LAB, extra=[images.samples]) as made:
        install(made)
        mesh = Mesh(made)
        mesh.namespace(NS, enrolled=True)
        made.apply(*(ROOT / "samples" / name for name in ("httpbin/httpbin.yaml", "curl/curl.yaml")), namespace=NS)
        made.rolled_out("httpbin", "curl", namespace=NS)
        asyncio.run(_bench(mesh, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
