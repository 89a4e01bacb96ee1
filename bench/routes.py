"""Layer 7 in the control plane: ``python -m bench.routes``.

A thousand services at one waypoint, each with a VirtualService of five routes: how long the first computation takes,
what one changed route costs in processor time, how many bytes of configuration it changes, and what the process has in
memory. No proxies and no network.
"""

import resource
import statistics
import sys
import time
from typing import Any

from controlplane.ambient.model import create
from controlplane.envoy import layer7
from controlplane.inputs.mesh import MeshContext
from controlplane.xds import worlds
from meshapi import names
from meshapi.resources import base, core
from meshapi.resources.gateway import Gateway
from meshapi.resources.virtual_service import VirtualService

SERVICES, ROUTES, CHANGES = 1_000, 5, 200
VIEW = ("shop", "waypoint")
Json = dict[str, Any]


def service(number: int) -> Json:
    address = f"10.96.{number >> 8}.{number & 255}"
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    spec = {"clusterIP": address, "clusterIPs": [address], "selector": {"app": f"s{number}"}, "ports": ports}
    return {"metadata": {"name": f"s{number}", "namespace": "shop"}, "spec": spec}


def pod(number: int, replica: int) -> Json:
    ip = f"10.{replica}.{number >> 8}.{number & 255}"
    return {
        "metadata": {"name": f"s{number}-{replica}", "namespace": "shop", "labels": {"app": f"s{number}"}},
        "spec": {"nodeName": "node", "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def virtual_service(number: int, word: str) -> Json:
    host = f"s{number}"
    rules = [
        {"match": [{"uri": {"prefix": f"/{word}/{rule}"}}], "route": [{"destination": {"host": host}}], "timeout": "5s"}
        for rule in range(ROUTES - 1)
    ]
    rules.append({"route": [{"destination": {"host": host}}]})
    return {"metadata": {"name": host, "namespace": "shop"}, "spec": {"hosts": [host], "http": rules}}


def waypoint() -> Json:
    listener = {"name": "mesh", "port": names.HBONE_PORT, "protocol": "HBONE"}
    return {
        "metadata": {"name": VIEW[1], "namespace": VIEW[0]},
        "spec": {"gatewayClassName": names.WAYPOINT_CLASS, "listeners": [listener]},
        "status": {"addresses": [{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}]},
    }


def main() -> int:
    model = create(MeshContext())
    views = worlds.create(layer7.create(model))
    changed: list[str] = []

    def put(kind: type[base.Object], item: Json) -> None:
        found = base.read(kind, item)
        model.inputs.of(kind).set(found.key, found)

    def publish() -> None:
        model.flush()
        failures = model.graph.take_failures()
        assert not failures, failures[0]
        views.publish(is_settled=True)

    labels = {names.USE_WAYPOINT_LABEL: VIEW[1]}
    space = base.read(core.Namespace, {"metadata": {"name": "shop", "labels": labels}})
    model.inputs.namespaces.set(space.key, space)
    put(Gateway, waypoint())
    for number in range(SERVICES):
        put(core.Service, service(number))
        put(VirtualService, virtual_service(number, "v0"))
        for replica in range(2):
            put(core.Pod, pod(number, replica))
    started = time.perf_counter()
    publish()
    cold_s = time.perf_counter() - started
    view = views.view(VIEW)
    sizes = {kind: sum(len(one.body) for one in view.all(kind)) for kind in worlds.TYPES}
    view.watch(lambda kind, found: changed.extend(f"{kind} {name}" for name in found))
    cpu_ms, sent = [], []
    for change in range(CHANGES):
        number = change * 7 % SERVICES
        put(VirtualService, virtual_service(number, f"v{change + 1}"))
        del changed[:]
        before = time.process_time()
        publish()
        cpu_ms.append((time.process_time() - before) * 1e3)
        assert len(changed) == 1, changed
        kind, _, name = changed[0].partition(" ")
        found = view.lookup(kind, name)
        assert found is not None
        sent.append(len(found.body))
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{SERVICES} services, {SERVICES * ROUTES} routes, one waypoint")
    print(f"first computation           {cold_s:8.2f} s")
    print(
        "configuration               "
        + ", ".join(f"{kind.rpartition('.')[2]} {size / 1e6:.1f} MB" for kind, size in sizes.items())
    )
    print(f"one changed route, CPU      {statistics.median(cpu_ms):8.2f} ms median, {max(cpu_ms):.2f} ms at most")
    print(f"one changed route, bytes    {statistics.median(sent):8.0f} of one resource")
    print(f"resident at most            {memory_mb:8.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
