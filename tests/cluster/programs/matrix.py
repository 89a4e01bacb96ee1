"""Runs inside pods. Standard library only.

matrix.py serve PORT...    answers every client, over IPv4 and IPv6
matrix.py request          for each line of JSON, a list of [address, port]: tries all at once and prints, as JSON, the
                           result of each: "allowed", "refused", or an error's name
"""

import contextlib
import json
import select
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT_S = 5.0


def serve(ports: list[int]) -> None:
    listeners = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in ports]
    with ThreadPoolExecutor(64) as pool:
        while True:
            for listener in select.select(listeners, [], [])[0]:
                pool.submit(answer, listener.accept()[0])


def answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(TIMEOUT_S)
        connection.sendall(connection.recv(100))


def request(target: tuple[str, int]) -> str:
    try:
        with socket.create_connection(target, timeout=TIMEOUT_S) as connection:
            connection.sendall(b"hello")
            return "allowed" if connection.recv(100) == b"hello" else "refused"
    except (ConnectionResetError, BrokenPipeError):
        return "refused"
    except OSError as error:
        return type(error).__name__


def main() -> None:
    match sys.argv[1:]:
        case ["serve", *ports]:
            serve([int(port) for port in ports])
        case ["request"]:
            with ThreadPoolExecutor(16) as pool:
                for line in sys.stdin:
                    print(json.dumps(list(pool.map(request, map(tuple, json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()
