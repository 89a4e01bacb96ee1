"""``python -m bench.directpolicy``: how long a changed policy takes until the kernel's table of direct pairs agrees.

Two pods of one node, pairs for as many ports as wanted, and as many policies with a rule each. Each change is one
policy of the server's namespace; it is in the table when the engine's call returns. Open connections that it denies are
ended in that call too: one is, each time.
"""

import argparse
import statistics
import time

from bench import contenders, session
from meshapi import names
from meshapi.proto import authorization_pb2
from tests.support import ebpf
from tests.support.direct import DirectMesh, connected, direct_mesh
from tests.support.waiting import until

FIRST_PORT = 8000


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.directpolicy", description="Time changes of policy.")
    parser.add_argument("--pairs", type=int, default=200, help="pairs in the table (default: 200)")
    parser.add_argument("--workloads", type=int, default=10_000, help="workloads of other nodes (default: 10,000)")
    parser.add_argument("--rules", type=int, default=1_000, help="rules of policies for the server (default: 1,000)")
    parser.add_argument("--changes", type=int, default=50, help="changes that are timed (default: 50)")
    return parser.parse_args()


async def measure(direct: DirectMesh, chosen: argparse.Namespace) -> list[float]:
    client, server = await direct.strangers(FIRST_PORT)
    for type_url, name, body in contenders.crowd(chosen.workloads, chosen.rules, namespace=server.namespace):
        direct.engine.apply(type_url, [(name, contenders.unpacked(body))], [])
    for port in range(FIRST_PORT, FIRST_PORT + chosen.pairs):
        if port != FIRST_PORT:
            await server.serve_peer(port)
        await direct.learn(client, server.ip, port)
    match = authorization_pb2.Match(destination_ports=[FIRST_PORT])
    rule = authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[match])])
    denied = authorization_pb2.Authorization(
        name="closed", namespace=server.namespace, scope=authorization_pb2.NAMESPACE, action=authorization_pb2.DENY,
        rules=[rule],
    )  # fmt: skip
    key = f"{server.namespace}/closed"
    took = []
    for _ in range(chosen.changes):
        with connected(client, server.ip, FIRST_PORT):
            assert direct.open() == 1
            began = time.perf_counter()
            direct.engine.apply(names.AUTHORIZATION_TYPE, [(key, denied.SerializeToString())], [])
            took.append(time.perf_counter() - began)
        direct.engine.apply(names.AUTHORIZATION_TYPE, [], [key])
        await until(lambda: direct.open() == 0)
    return took


async def main() -> None:
    chosen = options()
    session.check()
    try:
        async with direct_mesh() as direct:
            took = await measure(direct, chosen)
    finally:
        ebpf.uninstall_all()
    high = sorted(took)[int(len(took) * 0.99)]
    print(f"{chosen.pairs} pairs, {chosen.workloads} workloads, {chosen.rules} rules: a change takes")
    print(f"p50 {statistics.median(took) * 1e3:.1f} ms, p99 {high * 1e3:.1f} ms")


if __name__ == "__main__":
    session.run(main())
