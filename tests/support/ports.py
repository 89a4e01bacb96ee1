"""Free ports for programs that do not report which port they listen on."""

import socket


def free_port() -> int:
    """Return a TCP port of the loopback address without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
