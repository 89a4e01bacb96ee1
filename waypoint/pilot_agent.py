"""``pilot-agent request METHOD PATH``: Envoy's admin pages from inside the container, as in Istio's documents."""

import sys
import urllib.error
import urllib.request
from typing import Final

from meshapi import names

_USAGE: Final = "usage: pilot-agent request METHOD PATH [BODY]"
_TIMEOUT_S: Final = 60.0


def main() -> None:
    """Entry point of ``pilot-agent``."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str], port: int = names.ENVOY_ADMIN_PORT) -> int:
    """Make the request and print the answer; return the exit status."""
    if len(arguments) not in {3, 4} or arguments[0] != "request":
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    _, method, path, *body = arguments
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{path.removeprefix('/')}", method=method, data=body[0].encode() if body else None
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            sys.stdout.buffer.write(answer.read())
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"{method} {path}: status {error.code}: {error.read().decode(errors='replace')}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{method} {path}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    main()
