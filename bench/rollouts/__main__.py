"""Rollouts and scaling under load: ``python -m bench.rollouts [--times 100] [--only waypoint ...]``.

A lab of its own, a server behind a waypoint, a gateway and a client in the mesh: requests without a pause on HTTP/1.1
connections that stay, WebSockets, and streams of gRPC, to the gateway over TLS. Meanwhile the waypoint, the server and
the gateway are rolled out, each is scaled from 3 to 1 and back, and the gateway gets other certificates. Prints a line
for each: how often, what went through, what failed. Status 1 if anything has.
"""

import argparse
import sys

from bench.rollouts.cluster import AT_GATEWAY, CHANGES, Rollouts, image
from tests.support.lab import install, running
from tests.support.mesh import Mesh

LAB = "rollouts"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="how often each change is made")
    parser.add_argument("--only", nargs="*", choices=[*CHANGES, *AT_GATEWAY], help="only these changes")
    options = parser.parse_args()
    failed = 0
    with running(LAB, extra=[image]) as lab:
        install(lab)
        rollouts = Rollouts(Mesh(lab))
        rollouts.deploy()
        rollouts.publish()
        changes = CHANGES | AT_GATEWAY
        for name in options.only or changes:
            with rollouts.load(gateway=name in AT_GATEWAY) as load:
                for _ in range(options.times):
                    changes[name](rollouts)
            found = load.report()
            failed += len(found.failures)
            print(f"{options.times} times {name}: {found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
