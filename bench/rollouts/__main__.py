"""Rollouts and scaling under load: ``python -m bench.rollouts [--times 100] [--only waypoint ...]``.

A lab of its own, a server behind a waypoint and a client in the mesh: requests without a pause on HTTP/1.1 connections
that stay, and streams of gRPC. Meanwhile the waypoint and the server are rolled out, and each is scaled from 3 to 1 and
back. Prints one line for each: how often, what went through, what failed. Status 1 if anything has.
"""

import argparse
import sys

from bench.rollouts.cluster import CHANGES, Rollouts, image
from tests.support.lab import install, running
from tests.support.mesh import Mesh

LAB = "rollouts"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="how often each change is made")
    parser.add_argument("--only", nargs="*", choices=list(CHANGES), help="only these changes")
    options = parser.parse_args()
    failed = 0
    with running(LAB, extra=[image]) as lab:
        install(lab)
        rollouts = Rollouts(Mesh(lab))
        rollouts.deploy()
        for name in options.only or CHANGES:
            with rollouts.load() as load:
                for _ in range(options.times):
                    CHANGES[name](rollouts)
            found = load.report()
            failed += len(found.failures)
            print(f"{options.times} times {name}: {found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
