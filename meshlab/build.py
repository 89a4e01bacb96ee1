"""Make what the lab needs, ahead of time: ``python -m meshlab.build [what ...]``.

Without arguments everything is made. What is there already costs nothing.
"""

import sys
import time
from collections.abc import Callable, Mapping

from meshlab import images, product, programs
from meshlab.errors import LabError
from meshlab.programs import Say

TARGETS: Mapping[str, Callable[[Say], object]] = {
    "kubernetes": programs.kubernetes,
    "coredns": programs.coredns,
    "helm": programs.helm,
    "pause-image": images.pause,
    "coredns-image": images.coredns,
    "samples-image": images.samples,
    "culvert-image": product.image,
    "waypoint-image": product.waypoint_image,
    "metallb-image": images.metallb,
}


def main(arguments: list[str]) -> int:
    """Make the named things and return the exit status."""
    unknown = [name for name in arguments if name not in TARGETS]
    if unknown:
        _say(f"no such thing to build: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
        return 2
    for name in arguments or TARGETS:
        started = time.monotonic()
        try:
            made = TARGETS[name](_say)
        except LabError as error:
            _say(f"{name}: {error}")
            return 1
        _say(f"{name}: ready after {time.monotonic() - started:.1f} s: {getattr(made, 'path', made)}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
