"""``culvert trace`` with bcc, on a kernel of Debian's and through a real tunnel."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import ROOT
from tests.vm import inner, kernel, machine

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not inner.IS_THOROUGH, reason="bcc compiles for minutes on an emulated processor: a part of `make vm`"
    ),
    pytest.mark.skipif(
        kernel.DEBIAN == "trixie", reason="bcc 0.26, Debian 12's, cannot compile the headers of Linux 6.12"
    ),
]


def traced(folder: Path, *options: str) -> list[dict[str, Any]]:
    """Run ``tests.vm.tracing`` inside; returns the documents that the command has written."""
    command = f"{ROOT}/.venv/bin/python -m tests.vm.tracing {machine.EXCHANGE} {' '.join(options)}"
    env = {"PYTHONPATH": str(ROOT), **inner.ENVIRONMENT}
    done = machine.run(kernel.obtain(), command, folder, cwd=ROOT, env=env, limit_s=500)
    print(f"the machine ran for {done.seconds:.0f} s")
    assert done.status == 0, f"{done.output}\n{done.console}"
    said = (folder / "trace.err").read_text()
    assert "this kernel does not show" not in said
    assert "gaps" not in said
    return [json.loads(line) for line in (folder / "trace.out").read_text().splitlines()]


def whats(document: dict[str, Any]) -> list[str]:
    return [step["what"] for step in document["steps"]]


def test_connections_are_shown_from_capture_to_close_at_both_ends(tmp_path: Path) -> None:
    # Two connections that are carried and one that is refused have two ends each; to a port without a listener too.
    found = traced(tmp_path, "--output=json", "--count=8")
    first, second, refused, unheard = [one for one in found if "captured: " in str(one["steps"])]
    texts = whats(first)
    for text in (
        "connects to 10.77.0.",
        "captured: ",
        "a tunnel is opened to ",
        "tunnel: TCP is established",
        "CONNECT is answered",
        "client: python",
        "client: closed",
        "ztunnel, caller's end: complete",
    ):
        assert any(text in one for one in texts), (text, texts)
    assert "through the tunnel to spiffe://cluster.local/ns/shop/sa/server" in first["verdict"]
    assert not any("a tunnel is opened" in one for one in whats(second)), "it found one that was open"
    assert [step["at"] for step in first["steps"]] == sorted(step["at"] for step in first["steps"])
    assert "401" in refused["verdict"]
    assert "503" in unheard["verdict"]
    called = [one for one in found if "captured: " not in str(one["steps"])]
    carried = [
        one for one in called if "allowed by policy, as spiffe://cluster.local/ns/shop/sa/client" in one["verdict"]
    ]
    assert len(carried) == 2
    # A process that waits in accept() already is not seen there.
    assert any("accepts at port 8080" in one for one in whats(carried[1])), whats(carried[1])
    assert any("explicitly denied by: shop/nobody" in one["verdict"] for one in called)
    assert any("ztunnel: gets a reset" in whats(one) for one in called), called


def test_packets_that_the_kernel_drops_are_named_with_its_reason(tmp_path: Path) -> None:
    found = traced(tmp_path, "--drops", "--output=json", "--for=60")
    assert [one for one in found if one.get("what", "").startswith("dropped (")], found
    assert [one for one in found if "explicitly denied by" in one.get("verdict", "")], found
