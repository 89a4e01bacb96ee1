"""``culvert trace``: what is read, joined and shown. With a real kernel: ``tests/vm/test_trace.py``."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nodeagent.trace import access_log, commands, kernel, report
from nodeagent.trace.access_log import Entry, NoAccessLog, Reader
from nodeagent.trace.events import Endpoint, KernelEvent, What
from nodeagent.trace.latency import Latency
from nodeagent.trace.pods import End, Pods, matches
from nodeagent.trace.timeline import Connection, Journal, steps, verdict

CLIENT: Endpoint = ("10.0.0.1", 4000)
SERVER: Endpoint = ("10.0.0.2", 80)
LISTENER: Endpoint = ("127.0.0.1", 15001)
TUNNEL: Endpoint = ("10.0.0.1", 5000)
PEER: Endpoint = ("10.0.0.2", 15008)
APP, ZTUNNEL = 100, 200
PODS = Pods(
    [
        {"namespace": "shop", "name": "curl", "addresses": [CLIENT[0]]},
        {"namespace": "shop", "name": "web", "addresses": [SERVER[0]]},
    ]
)
OUTBOUND = {
    "time": "1970-01-01T00:00:10.100000Z", "direction": "outbound", "src.addr": "10.0.0.1:4000",
    "src.workload": "curl", "src.namespace": "shop", "dst.addr": "10.0.0.2:15008", "dst.hbone_addr": "10.0.0.2:80",
    "dst.identity": "spiffe://cluster.local/ns/shop/sa/web", "dst.service": "web.shop.svc.cluster.local",
    "bytes_sent": "5", "bytes_recv": "6", "duration": "90ms",
}  # fmt: skip
INBOUND = {
    **OUTBOUND, "direction": "inbound", "src.addr": "10.0.0.1:5000", "src.identity": "spiffe://cluster.local/ns/shop/sa/curl",
}  # fmt: skip


def line(fields: dict[str, str], **more: str) -> str:
    """An entry as ztunnel writes it."""
    rest = {key: value for key, value in (fields | more).items() if key != "time"}
    plain = {"src.addr", "dst.addr", "dst.hbone_addr", "bytes_sent", "bytes_recv"}
    text = " ".join(f"{key}={value}" if key in plain else f'{key}="{value}"' for key, value in rest.items())
    return f"{fields['time']}\tinfo\taccess\tconnection complete\t{text}"


def entry(fields: dict[str, str], **more: str) -> Entry:
    found = access_log.parse(line(fields, **more))
    assert found is not None
    return found


def event(at_s: float, what: What, local: Endpoint, remote: Endpoint, pid: int = APP, detail: str = "") -> KernelEvent:
    return KernelEvent(at_s, what, "curl" if pid == APP else "worker", pid, local, remote, detail)


CARRIED = [
    event(10.000, What.CONNECT, CLIENT, SERVER),
    event(10.001, What.ESTABLISHED, CLIENT, SERVER),
    event(10.002, What.ACCEPT, LISTENER, CLIENT, ZTUNNEL),
    event(10.003, What.CONNECT, TUNNEL, PEER, ZTUNNEL),
    event(10.004, What.ESTABLISHED, TUNNEL, PEER, ZTUNNEL),
    event(10.006, What.FIRST_BYTE, TUNNEL, PEER, ZTUNNEL),
    event(10.008, What.FIRST_BYTE, LISTENER, CLIENT, ZTUNNEL),
    event(10.020, What.FIRST_BYTE, CLIENT, SERVER),
    event(10.090, What.CLOSED, CLIENT, SERVER),
]


def joined(*taken: KernelEvent | Entry, now_s: float = 11.0) -> list[Connection]:
    journal = Journal()
    for one in taken:
        if isinstance(one, Entry):
            journal.logged(one)
        else:
            journal.kernel(one)
    return list(journal.finished(now_s))


def test_lines_are_read_as_text_and_as_json_and_others_are_not() -> None:
    text = entry(OUTBOUND, **{"src.workload": 'a \\"b=c'})
    assert (text.source, text.target, text.fields["src.workload"]) == (CLIENT, SERVER, 'a "b=c')
    assert (text.began_s, text.ended_s, text.is_inbound) == (pytest.approx(10.01), pytest.approx(10.1), False)
    found = access_log.parse(
        '{"level":"info","time":"1970-01-01T00:00:10Z","scope":"access","message":"connection complete",'
        '"src.addr":"[fd00::1]:4000","dst.addr":"[fd00::2]:80","direction":"outbound","bytes_sent":5,"duration":"0ms"}'
    )
    assert found is not None
    assert (found.source, found.destination, found.target) == (("fd00::1", 4000), ("fd00::2", 80), None)
    for other in ("", "a line of my own", "{broken", line(OUTBOUND).replace("connection complete", "query")):
        assert access_log.parse(other) is None


def test_a_connection_is_joined_from_its_socket_the_tunnels_and_the_access_log() -> None:
    [found] = joined(*CARRIED, entry(OUTBOUND))
    assert [step.text for step in steps(found)] == [
        "curl[100] connects to 10.0.0.2:80",
        "client: TCP is established",
        "captured: worker[200] accepts at port 15001",
        "a tunnel is opened to 10.0.0.2:15008",
        "tunnel: TCP is established",
        "tunnel: the peer's first byte, in the handshake of TLS",
        "ztunnel: worker[200] reads the first byte",
        "CONNECT is answered, open at both ends",
        "client: curl[100] reads the first byte",
        "client: closed",
        "ztunnel, caller's end: complete, 5 bytes sent, 6 received",
    ]
    assert (
        verdict(found) == "through the tunnel to spiffe://cluster.local/ns/shop/sa/web: CONNECT 10.0.0.2:80, status 200"
    )
    assert found.first_byte_s == pytest.approx(0.020)


def test_events_of_two_processors_may_come_in_the_wrong_order() -> None:
    accepted_first = [CARRIED[2], CARRIED[0], *CARRIED[1:2], *CARRIED[3:]]
    [found] = joined(*accepted_first, entry(OUTBOUND))
    assert steps(found)[0].text == "curl[100] connects to 10.0.0.2:80"


def test_an_entry_may_come_before_the_events_that_it_is_about() -> None:
    journal = Journal()
    journal.logged(entry(INBOUND))
    assert list(journal.finished(10.2)) == []
    to_application: Endpoint = ("10.0.0.1", 6000)
    journal.kernel(event(10.010, What.ACCEPT, PEER, TUNNEL, ZTUNNEL))
    journal.kernel(event(10.012, What.CONNECT, to_application, SERVER, ZTUNNEL))
    [found] = journal.finished(11.0)
    assert found.client == to_application
    assert verdict(found).startswith("allowed by policy")


def test_at_the_called_pods_end_the_tunnels_connection_to_the_application_is_found() -> None:
    to_application: Endpoint = ("10.0.0.1", 6000)
    [found] = joined(
        event(10.010, What.ACCEPT, PEER, TUNNEL, ZTUNNEL),
        event(10.012, What.CONNECT, to_application, SERVER, ZTUNNEL),
        event(10.013, What.ACCEPT, SERVER, to_application, APP),
        event(10.050, What.CLOSED, to_application, SERVER, ZTUNNEL),
        entry(INBOUND),
    )
    assert found.entry is not None
    assert [step.text for step in steps(found)] == [
        "open at both ends",
        "worker[200] connects to 10.0.0.2:80",
        "curl[100] accepts at port 80",
        "ztunnel: closed",
        "ztunnel, called pod's end: complete, 5 bytes sent, 6 received",
    ]
    assert verdict(found) == "allowed by policy, as spiffe://cluster.local/ns/shop/sa/curl"


def test_a_client_in_plain_text_is_shown_with_the_tunnels_connection_to_the_application() -> None:
    client, to_application = ("10.0.0.9", 7000), ("10.0.0.9", 6000)
    [found] = joined(
        event(10.000, What.CONNECT, client, SERVER),
        event(10.001, What.ACCEPT, ("10.0.0.2", 15006), client, ZTUNNEL),
        event(10.002, What.CONNECT, to_application, SERVER, ZTUNNEL),
        event(10.003, What.ACCEPT, SERVER, to_application, 300),
        event(10.090, What.CLOSED, client, SERVER),
        entry(INBOUND, **{"src.addr": "10.0.0.9:7000", "dst.addr": "10.0.0.2:80", "src.identity": ""}),
    )
    assert [step.text for step in steps(found)][:4] == [
        "curl[100] connects to 10.0.0.2:80",
        "captured: worker[200] accepts at port 15006",
        "worker[200] connects to 10.0.0.2:80",
        "worker[300] accepts at port 80",
    ]
    assert verdict(found) == "allowed by policy, in plain text"


def test_a_refusal_is_the_verdict() -> None:
    denied = "connection closed due to policy rejection: explicitly denied by: shop/p"
    [found] = joined(entry(INBOUND, error=denied))
    assert verdict(found) == f"refused or broken: {denied}"


def test_without_the_kernel_a_connection_has_what_ztunnel_says() -> None:
    [found] = joined(entry(OUTBOUND))
    assert report.text(found, PODS).splitlines() == [
        "1970-01-01T00:00:10.010Z  shop/curl 10.0.0.1:4000 -> shop/web 10.0.0.2:80, web.shop.svc.cluster.local",
        "  through the tunnel to spiffe://cluster.local/ns/shop/sa/web: CONNECT 10.0.0.2:80, status 200",
        "       0.000 ms      +0.000  CONNECT is answered, open at both ends",
        "      90.000 ms     +90.000  ztunnel, caller's end: complete, 5 bytes sent, 6 received",
    ]


def test_a_connection_that_is_not_captured_ends_without_an_entry() -> None:
    [found] = joined(event(10.0, What.CONNECT, CLIENT, SERVER), event(10.1, What.CLOSED, CLIENT, SERVER))
    assert "not captured, or not reported by ztunnel" in report.text(found, PODS)


def test_what_is_not_over_waits_and_a_tunnel_is_no_connection_of_its_own() -> None:
    assert joined(*CARRIED[:-1]) == []
    assert joined(*CARRIED, now_s=10.2) == [], "ztunnel's entry may still come"
    closed_tunnel = event(10.3, What.CLOSED, TUNNEL, PEER, ZTUNNEL)
    assert [one.client for one in joined(*CARRIED, closed_tunnel)] == [CLIENT]


def test_the_document_has_the_same_in_seconds() -> None:
    [found] = joined(*CARRIED, entry(OUTBOUND))
    document = report.document(found, PODS)
    assert document["source"] == {"name": "shop/curl", "address": "10.0.0.1", "port": 4000, "host": ""}
    assert document["destination"]["host"] == "web.shop.svc.cluster.local"
    assert document["steps"][1] == {"at": 0.001, "what": "client: TCP is established"}


@pytest.mark.parametrize(
    ("wanted", "is_wanted"),
    [
        ("", True), ("web", True), ("web.shop", True), ("shop/web", True), ("10.0.0.2", True), ("10.0.0.2:80", True),
        (":80", True), ("web:80", True), ("web.shop.svc.cluster.local:80", True), ("front", True), ("front.dev", True),
        ("web.dev", False), ("dev/web", False), ("10.0.0.3", False), (":81", False), ("web:81", False), ("we", False),
    ],
)  # fmt: skip
def test_an_end_is_asked_for_by_name_host_address_or_port(wanted: str, is_wanted: bool) -> None:
    hosts = {"front": "front.dev.svc.cluster.local", "front.dev": "front.dev.svc.cluster.local"}
    host = hosts.get(wanted, "web.shop.svc.cluster.local")
    assert matches(wanted, End("shop/web", "10.0.0.2", 80, host)) is is_wanted


@pytest.mark.parametrize("wanted", ["fd00::2", "[fd00::2]", "[fd00::2]:80"])
def test_an_end_is_asked_for_by_an_address_of_ipv6(wanted: str) -> None:
    assert matches(wanted, End("", "fd00::2", 80))


def test_a_dropped_packet_has_its_reason_and_both_pods() -> None:
    drop = event(10.0, What.DROP, CLIENT, ("10.0.0.2", 81), detail="NO_SOCKET")
    assert report.trouble(drop, PODS) == (
        "1970-01-01T00:00:10.000Z  dropped (NO_SOCKET)  10.0.0.1:4000 (shop/curl) -> 10.0.0.2:81 (shop/web)"
    )


def test_reasons_are_those_of_the_running_kernel() -> None:
    text = (
        'print fmt: "skbaddr=%p reason: %s", REC->skbaddr, __print_symbolic(REC->reason, '
        '{ 1, "NOT_SPECIFIED" }, { 2, "NO_SOCKET" })'
    )
    assert kernel.drop_reasons(text) == {1: "NOT_SPECIFIED", 2: "NO_SOCKET"}
    assert kernel.drop_reasons('print fmt: "skbaddr=%p", REC->skbaddr') == {}


def test_headers_are_a_package_or_the_kernels_own(tmp_path: Path) -> None:
    assert not kernel.has_headers("6.1.0", tmp_path)
    for place in ("lib/modules/6.1.0/build", "sys/kernel/kheaders.tar.xz"):
        (tmp_path / place).mkdir(parents=True)
        assert kernel.has_headers("6.1.0", tmp_path)
        (tmp_path / place).rmdir()


def test_times_are_counted_for_each_caller_in_powers_of_two() -> None:
    latency = Latency("from connect to the first byte")
    for seconds in (0.0009, 0.0015, 0.0016):
        latency.add("shop/curl", seconds)
    assert latency.document["callers"] == {"shop/curl": {"1024": 1, "2048": 2}}
    assert str(latency).splitlines() == [
        "shop/curl: from connect to the first byte, 3 connections",
        "  below     1.0 ms         1   ####################",
        "  below     2.0 ms         2   ########################################",
    ]


@pytest.fixture
def ztunnel(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A socket at which lines can be read, and its other end."""
    path = tmp_path / "access-log.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path, listener


def test_lines_come_in_pieces_and_what_is_no_entry_is_counted(ztunnel: tuple[Path, socket.socket]) -> None:
    path, listener = ztunnel
    reader = Reader(path)
    other, _ = listener.accept()
    whole = f"{line(OUTBOUND)}\nsomething else\n".encode()
    other.sendall(whole[:50])
    assert reader.poll(0.1) == []
    other.sendall(whole[50:])
    assert [one.source for one in reader.poll(1.0)] == [CLIENT]
    assert reader.unread == 1
    other.close()
    with pytest.raises(NoAccessLog, match="ztunnel has ended"):
        reader.poll(1.0)
    reader.close()


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    def no_kernel(**_: object) -> kernel.Kernel:
        raise kernel.NoKernelEvents("bcc is not installed: install the package python3-bpfcc")

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(commands, "open_kernel", no_kernel)
    monkeypatch.setattr(commands.pods, "fetch", lambda: PODS)
    return CliRunner().invoke(commands.app, arguments)


def test_without_bcc_ztunnels_part_is_shown_and_said_to_be_all(
    ztunnel: tuple[Path, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, listener = ztunnel

    def written(*arguments: str) -> Any:
        """Run the command with two lines written already: one of another destination."""
        waiting = Reader(path)
        monkeypatch.setattr(commands, "Reader", lambda _: waiting)
        other, _ = listener.accept()
        with other:
            other.sendall(f"{line(OUTBOUND)}\n{line(OUTBOUND, **{'dst.hbone_addr': '10.0.0.2:81'})}\n".encode())
            return run(*arguments, "--count=1", monkeypatch=monkeypatch)

    found = written("curl.shop", "web:80")
    assert found.exit_code == 0
    assert "only what ztunnel reports is shown: bcc is not installed: install the package python3-bpfcc" in found.stderr
    assert found.stdout.count("open at both ends") == 1
    assert "10.0.0.2:80," in found.stdout
    histogram = written("--latency")
    assert "shop/curl: duration, by ztunnel's access log, 1 connections" in histogram.stdout


def test_with_neither_source_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(f"--access-log={tmp_path / 'none'}", monkeypatch=monkeypatch)
    assert found.exit_code == 1
    assert "ztunnel's access log cannot be read" in found.stderr
