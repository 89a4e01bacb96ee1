"""The command line against an installed mesh: who is in sync, what is wrong, and a report without secrets."""

import base64
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from meshapi import names
from tests.support.lab import eventually
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "commands"
WRONG = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: wrong}
spec:
  selector: {matchLabels: {app: nothing}}
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""


def test_proxies_are_in_sync(mesh: Mesh) -> None:
    def in_sync() -> Any:
        done = mesh.culvert("ps", "-o", "json")
        return done.returncode == 0 and json.loads(done.stdout)

    found = eventually(in_sync, "all proxies are in sync", within_s=30)
    assert mesh.culvert("proxy-status").stdout.startswith("NAME")
    assert {one["node"] for one in found} == {"node1", "node2"}
    expected = dict.fromkeys(("addresses", "policies", "mesh config"), "SYNCED")
    assert all(one["types"] == expected for one in found)
    assert all(one["controlPlane"].startswith("istiod-") and one["version"] for one in found)


def test_a_wrong_policy_is_found_before_it_is_applied_and_after(mesh: Mesh, tmp_path: Path) -> None:
    mesh.namespace(NS)
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    before = mesh.culvert("analyze", "-n", NS, "--failure-threshold=Warning", str(file))
    assert before.returncode == 79, before.stderr
    mesh.lab.apply(WRONG, namespace=NS)
    after = mesh.culvert("analyze", "-n", NS, "-o", "json")
    assert after.returncode == 0, "warnings are below the threshold"
    assert {one["code"] for one in json.loads(after.stdout)} == {"IST0127", "CUL0102"}
    assert "[IST0127]" in before.stdout


def test_a_report_has_logs_and_dumps_and_no_secret(mesh: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    done = mesh.culvert("bug-report", "-o", str(path))
    assert done.returncode == 0, done.stderr
    with tarfile.open(path) as packed:
        files = {entry.name.partition("/")[2]: packed.extractfile(entry) for entry in packed.getmembers()}
        found = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert found["failures.txt"].strip() == ""
    ends = ("discovery.log", "install-cni.log", "config_dump.json", "syncz.json", "metrics.txt")
    for end in ends:
        assert [name for name, text in found.items() if name.endswith(end) and text], end
    assert json.loads(found["proxy-status.json"])["proxies"]
    secret = mesh.lab.resource("secret", "-n", SYSTEM, names.CA_SECRET)["data"]["ca-key.pem"]
    lines = base64.b64decode(secret).decode().splitlines()[1:-1]
    everything = "\n".join(found.values())
    assert not [line for line in lines if line in everything]
    assert "PRIVATE KEY" not in everything


def test_the_log_level_is_set_at_run_time(mesh: Mesh) -> None:
    done = mesh.culvert("ztunnel-config", "log", "debug")
    try:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("debug") == 2
    finally:
        assert mesh.culvert("ztunnel-config", "log", "info").returncode == 0
