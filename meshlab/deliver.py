"""Bring Culvert's images into a lab: ``python -m meshlab.deliver NAME``.

Prints, as assignments for a shell, what an installation needs to know: ``tag`` of the image, ``helm`` (the program)
and ``kubeconfig``. The lab itself knows nothing of the mesh; the chart is installed as on any other cluster.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from meshlab import cluster, lab, product, programs, state
from meshlab.errors import LabError
from meshlab.progress import Progress


def main(arguments: list[str]) -> int:
    """Build, load, print; return the exit status."""
    if len(arguments) != 1:
        print("usage: python -m meshlab.deliver NAME", file=sys.stderr)  # noqa: T201
        return 2
    progress, name = Progress(), arguments[0]
    try:
        lab.existing(name)
        with ThreadPoolExecutor(max_workers=1) as pool:
            helm = pool.submit(programs.helm, progress.say)
            archive, waypoint = product.both(progress.say)
            nodes = [lab.machine(name, plan.name) for plan in lab.existing(name).plan.nodes]
            for one in (archive, waypoint):
                # The tag is the key of the content: what has the name has the content.
                lacking = [node for node in nodes if not cluster.holds(node, one.name)]
                with progress.step(f"{one.name} is on every node of lab {name}"):
                    cluster.load_everywhere(lacking, [one])
            found = {
                "tag": archive.name.rpartition(":")[2],
                "helm": helm.result() / "helm",
                "kubeconfig": state.kubeconfig(name),
            }
    except LabError as error:
        print(f"deliver: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for key, value in found.items():
        print(f"{key}='{value}'")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
