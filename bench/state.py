"""``python -m bench.state``: a large mesh in one node's tunnel: memory, time to load, cost of one change.

The process is the engine in a bare Python host (``bench.engine_host`` without pods), fed with the resources that the
control plane makes of ``bench.cluster``. A change is one workload sent again with another health status.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

from bench import cluster
from bench.rows import resident_bytes
from controlplane.ambient.model import create
from controlplane.inputs.mesh import MeshContext
from meshapi import names
from meshapi.proto import engine_pb2, workload_pb2
from meshapi.resources import base, core
from meshengine import Engine

_BATCH = 5_000


def resources(size: cluster.Size) -> Iterator[tuple[str, bytes]]:
    """Yield the mesh as the control plane sends it."""
    model = create(MeshContext())
    services, pods = model.inputs.of(core.Service), model.inputs.of(core.Pod)
    for number in range(size.services):
        service = base.read(core.Service, cluster.service(size, number))
        services.set(service.key, service)
    for resource in model.flush()[names.ADDRESS_TYPE].values():
        assert resource is not None
        yield resource.name, resource.body
    for number in range(size.pods):
        pod = base.read(core.Pod, cluster.pod(size, number))
        pods.set(pod.key, pod)
        for resource in model.flush()[names.ADDRESS_TYPE].values():
            assert resource is not None
            yield resource.name, resource.body
        pods.set(pod.key, None)
        model.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.state", description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--services", type=int, default=10_000)
    chosen = parser.parse_args()
    sent = list(resources(cluster.Size(chosen.pods, chosen.services, 1_000)))
    engine = Engine(engine_pb2.EngineConfig(node="node-0", worker_threads=2).SerializeToString())
    before, began = resident_bytes(), time.perf_counter()
    for start in range(0, len(sent), _BATCH):
        engine.apply(names.ADDRESS_TYPE, sent[start : start + _BATCH], [])
    took_s, grown = time.perf_counter() - began, resident_bytes() - before
    print(f"{chosen.pods} workloads, {chosen.services} services: {took_s:.2f} s, {grown / 1e6:.0f} MB")
    print(
        f"memory for each workload: {grown / len(sent):.0f} bytes; sent in {sum(len(b) for _, b in sent) / 1e6:.0f} MB"
    )
    costs = []
    for name, body in sent[-1000:]:
        address = workload_pb2.Address.FromString(body)
        address.workload.status = workload_pb2.UNHEALTHY
        changed = [(name, address.SerializeToString())]
        began = time.perf_counter()
        engine.apply(names.ADDRESS_TYPE, changed, [])
        costs.append((time.perf_counter() - began) * 1e6)
    costs.sort()
    print(f"one change, p50 / p99: {statistics.median(costs):.0f} / {costs[len(costs) * 99 // 100]:.0f} µs")
    engine.close()


if __name__ == "__main__":
    main()
