"""Runs inside pods: an echo server, and a client that counts the failures of its connections. Standard library only.

load.py serve PORT                 answers each line with "<client address> <line>"
load.py run HOST PORT SECONDS      a new connection every 10 ms and five that stay; prints a JSON report at the end
"""

import itertools
import json
import socket
import sys
import threading
import time

INTERVAL_S = 0.01
TIMEOUT_S = 5.0
KEPT = 5


def serve(port: int) -> None:
    with socket.create_server(("", port), backlog=512) as listener:
        while True:
            connection, peer = listener.accept()
            threading.Thread(target=_answer, args=(connection, peer[0]), daemon=True).start()


def _answer(connection: socket.socket, peer: str) -> None:
    with connection, connection.makefile("rwb") as stream:
        try:
            for line in stream:
                stream.write(f"{peer} ".encode() + line)
                stream.flush()
        except OSError:
            pass


class Report:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.new_ok = 0
        self.kept_ok = 0
        self.failures: list[dict[str, object]] = []
        self.peers: set[str] = set()
        self.successes: list[float] = []
        self.slowest_s = 0.0
        self.slow: list[list[float]] = []
        """When it began, seconds to connect and to exchange, and the local port, of connections slower than 0.3 s."""

    def ok(self, kind: str, peer: str, began: float) -> None:
        now = time.time()
        with self.lock:
            self.peers.add(peer)
            self.slowest_s = max(self.slowest_s, now - began)
            if kind == "new":
                self.new_ok += 1
                self.successes.append(now)
            else:
                self.kept_ok += 1

    def failed(self, kind: str, stage: str, error: Exception) -> None:
        with self.lock:
            self.failures.append({"t": time.time(), "kind": kind, "stage": stage, "error": repr(error)})

    def longest_gap_s(self) -> float:
        times = sorted(self.successes)
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def _connect(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=TIMEOUT_S)


def _exchange(stream, text: str) -> str:
    stream.write(text.encode() + b"\n")
    stream.flush()
    answer = stream.readline().decode()
    if not answer.endswith(text + "\n"):
        raise ConnectionError(f"answer {answer!r}" if answer else "ended by the other side")
    return answer.split(" ")[0]


def _once(host: str, port: int, report: Report) -> None:
    began, stage = time.time(), "connect"
    try:
        with _connect(host, port) as connection, connection.makefile("rwb") as stream:
            stage, connected = "exchange", time.time()
            port_used = connection.getsockname()[1]
            report.ok("new", _exchange(stream, "hello"), began)
            if time.time() - began > 0.3:
                report.slow.append([began, round(connected - began, 2), round(time.time() - connected, 2), port_used])
    except OSError as error:
        report.failed("new", stage, error)


def _keep(host: str, port: int, end: float, report: Report) -> None:
    while time.time() < end:
        try:
            with _connect(host, port) as connection, connection.makefile("rwb") as stream:
                while time.time() < end:
                    began = time.time()
                    report.ok("kept", _exchange(stream, "still here"), began)
                    time.sleep(0.05)
        except OSError as error:
            report.failed("kept", "exchange", error)
            time.sleep(0.2)


def run(host: str, port: int, seconds: float) -> None:
    report, end = Report(), time.time() + seconds
    kept = [threading.Thread(target=_keep, args=(host, port, end, report)) for _ in range(KEPT)]
    for thread in kept:
        thread.start()
    print("started", flush=True)
    workers: list[threading.Thread] = []
    due = time.time()
    while due < end:
        thread = threading.Thread(target=_once, args=(host, port, report))
        thread.start()
        workers = [worker for worker in workers if worker.is_alive()] + [thread]
        due += INTERVAL_S
        time.sleep(max(0.0, due - time.time()))
    for thread in [*kept, *workers]:
        thread.join(TIMEOUT_S + 1)
    hanging = sum(thread.is_alive() for thread in [*kept, *workers])
    result = {
        "new_ok": report.new_ok, "kept_ok": report.kept_ok, "failures": report.failures, "hanging": hanging,
        "peers": sorted(report.peers), "slowest_s": report.slowest_s, "slow": report.slow,
        "longest_gap_s": report.longest_gap_s(),
    }  # fmt: skip
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        run(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
