"""Culvert installed the way users install it, and uninstalled again.

A lab of its own: the others share one in which the mesh must stay.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshapi import names
from meshlab import images, lab, product, programs
from meshlab.machines.machine import Machine
from meshlab.progress import Progress
from tests.support import pages
from tests.support.lab import BACKEND, ROOT, Lab, eventually, running

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

BOOKINFO = ROOT / "samples/bookinfo/platform/kube/bookinfo.yaml"
CURL = ROOT / "samples" / "curl" / "curl.yaml"
PAGE = ("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://productpage:9080/productpage")


class Installation:
    """The command ``culvert`` on a lab."""

    def __init__(self, cluster: Lab, tag: str) -> None:
        self.cluster = cluster
        self.tag = tag
        self.helm = programs.helm(print) / "helm"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meshctl", *arguments]
        env = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)

    def culvert(self, *arguments: str, status: int = 0) -> str:
        done = self.run(*arguments)
        assert done.returncode == status, f"{arguments}: {done.stderr}\nlook inside: {self.cluster.look()}"
        return done.stdout + done.stderr

    def install(self, *arguments: str) -> str:
        return self.culvert("install", f"--helm={self.helm}", f"--set=image.tag={self.tag}", *arguments)

    def uninstall(self, *arguments: str) -> str:
        return self.culvert("uninstall", f"--helm={self.helm}", *arguments)

    def document(self, *arguments: str) -> Any:
        return json.loads(self.culvert(*arguments, "-o", "json"))

    @property
    def nodes(self) -> list[Machine]:
        return [lab.machine(self.cluster.name, plan.name) for plan in lab.existing(self.cluster.name).plan.nodes]


@pytest.fixture(scope="module")
def blank() -> Iterator[Installation]:
    """A lab without Culvert."""
    progress = Progress()
    with running("install", nodes=2, extra=[images.samples, product.image]) as cluster:
        found = Installation(cluster, product.image(progress.say).name.rpartition(":")[2])
        found.uninstall("--purge")  # a lab that was kept may hold the last run's
        cluster.kubectl("delete", "namespace", "bookinfo", "--ignore-not-found")
        yield found


@pytest.fixture(scope="module")
def installation(blank: Installation) -> Iterator[Installation]:
    cluster = blank.cluster
    before = [traces(machine) for machine in blank.nodes]
    blank.install(f"--set=nodeAgent.captureBackend={BACKEND}")
    cluster.kubectl("create", "namespace", "bookinfo")
    cluster.apply(BOOKINFO, CURL, namespace="bookinfo")
    yield blank
    blank.uninstall("--purge")
    assert [traces(machine) for machine in blank.nodes] == before
    left = cluster.kubectl("get", "crd,clusterrole,clusterrolebinding,secret,cm,sa,ds,deploy", "-A", "-o", "name")
    ours = [line for line in left.split() if re.search(r"culvert|istio|ztunnel", line)]
    assert ours == []


def traces(machine: Machine) -> dict[str, str]:
    """What an installation changes on a node."""
    chain = json.loads(machine.run(["sh", "-c", f"cat {names.CNI_NET_DIR}/*.conflist"]).text)
    return {
        "plugins": machine.run(["ls", "-A", names.CNI_BIN_DIR]).text,
        "chain": json.dumps(chain),
        "sockets": machine.run(["sh", "-c", "ls -A /run/ztunnel /run/istio-cni 2>/dev/null | grep sock; true"]).text,
        "tables": machine.run(["sh", "-c", "nft list tables | grep -v -E 'kube-proxy|table ip6? [a-z]+$'; true"]).text,
        "rules": machine.run(["ip", "rule"]).text,
        "hooks": machine.run(["sh", "-c", "ls -A /sys/fs/bpf | grep culvert; true"]).text,
        "routes": machine.run(["sh", "-c", f"ip route show table {names.REPLY_ROUTE_TABLE} 2>/dev/null; true"]).text,
    }


def test_the_page_about_an_own_authority(blank: Installation, tmp_path: Path) -> None:
    """First of all: it begins without Culvert, and ends so."""
    culvert = tmp_path / "culvert"
    culvert.write_text(
        "#!/bin/sh\n"
        f'case $1 in install) shift; set -- install --set=image.tag={blank.tag} "$@" ;; esac\n'
        f'exec {sys.executable} -m meshctl "$@"\n'
    )
    culvert.chmod(0o755)
    own = tmp_path / "kubeconfig"
    shutil.copy(blank.cluster.kubeconfig, own)
    programs = f"{tmp_path}:{blank.helm.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    page = pages.steps((pages.FOLDER / "plugin-ca.md").read_text())
    try:
        pages.execute(page, {**os.environ, "KUBECONFIG": str(own), "PATH": programs}, tmp_path)
    finally:
        blank.cluster.kubectl("delete", "namespace", "foo", "--ignore-not-found", timeout_s=120)
        blank.cluster.kubectl("delete", "secret", "cacerts", "-n", names.DEFAULT_NAMESPACE, "--ignore-not-found")
        blank.uninstall("--purge")


def test_all_parts_are_ready_on_every_node(installation: Installation) -> None:
    def settled() -> Any:
        # A ready ztunnel may lag briefly behind the control plane's latest push, and status reports it.
        done = installation.run("status", "-o", "json")
        found = json.loads(done.stdout or "null")
        return done.returncode == 0 and all(one["xds"] == "synced" for one in found["nodes"]) and found

    found = eventually(settled, "everything is healthy and in sync")
    assert found["healthy"] is True
    assert {one["name"]: (one["ready"], one["desired"]) for one in found["components"]} == {
        "control plane": (1, 1),
        "node agent": (2, 2),
        "ztunnel": (2, 2),
    }
    assert [one["cniPlugin"] for one in found["nodes"]] == [True] * 2


def test_every_installed_object_is_verified(installation: Installation) -> None:
    lines = installation.culvert("verify-install", f"--helm={installation.helm}").splitlines()
    assert lines[-1] == "✔ Culvert is installed and verified successfully"
    assert f"✔ DaemonSet: ztunnel.{names.DEFAULT_NAMESPACE} checked successfully" in lines
    assert "✔ CustomResourceDefinition: authorizationpolicies.security.istio.io checked successfully" in lines


def test_versions_of_all_processes(installation: Installation) -> None:
    found = installation.document("version")
    assert {one["version"] for one in found["mesh"]} == {found["client"]}
    assert len(found["mesh"]) == 5


def test_installing_again_changes_nothing(installation: Installation) -> None:
    before = pods(installation)
    installation.install(f"--set=nodeAgent.captureBackend={BACKEND}")
    assert pods(installation) == before


def test_a_labelled_namespace_is_carried_over_hbone(installation: Installation) -> None:
    cluster = installation.cluster
    cluster.rolled_out("productpage-v1", "details-v1", "reviews-v1", "ratings-v1", "curl", namespace="bookinfo")
    assert cluster.run("curl", *PAGE, namespace="bookinfo") == "200"
    cluster.kubectl("label", "namespace", "bookinfo", f"{names.DATAPLANE_MODE_LABEL}={names.DATAPLANE_MODE_AMBIENT}")

    def protocols() -> set[str]:
        return {one["protocol"] for one in installation.document("ztunnel-config", "workloads", "-n", "bookinfo")}

    eventually(lambda: protocols() == {"HBONE"}, "every workload is reached over HBONE")
    restarts = {pod["status"]["containerStatuses"][0]["restartCount"] for pod in bookinfo_pods(installation)}
    assert restarts == {0}
    for _ in range(5):
        assert cluster.run("curl", *PAGE, namespace="bookinfo") == "200"
    identity = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage"
    certificates = installation.document("ztunnel-config", "certificates", "-n", "bookinfo")
    assert identity in {one["identity"] for one in certificates if one["state"] == "Available"}

    def carried() -> bool:
        logs = ("logs", "-n", names.DEFAULT_NAMESPACE, "-l", "app=ztunnel", "--tail=-1", "--prefix=false")
        lines = cluster.kubectl(*logs).splitlines()
        return any(f'src.identity="{identity}"' in line and ":15008" in line for line in lines)

    eventually(carried, "the access log names the identity and the tunnel's port")
    assert sum(one["capturedPods"] for one in installation.document("status")["nodes"]) == len(
        bookinfo_pods(installation)
    )


def test_a_new_pod_starts_captured(installation: Installation) -> None:
    cluster = installation.cluster
    cluster.kubectl("rollout", "restart", "deploy/details-v1", "-n", "bookinfo")
    cluster.rolled_out("details-v1", namespace="bookinfo")
    assert cluster.run("curl", *PAGE, namespace="bookinfo") == "200"


def test_a_broken_part_is_named_and_ends_in_status_1(installation: Installation) -> None:
    cluster = installation.cluster
    scale = ("scale", "deploy/istiod", "-n", names.DEFAULT_NAMESPACE)
    cluster.kubectl(*scale, "--replicas=0")
    try:
        output = installation.culvert("status", status=1)
        assert "culvert status: control plane: 0 of 0 ready" in output
        output = installation.culvert("verify-install", f"--helm={installation.helm}", status=1)
        assert f"✘ Deployment: istiod.{names.DEFAULT_NAMESPACE}: 0 of 0 pods are ready" in output
        assert cluster.run("curl", *PAGE, namespace="bookinfo") == "200", "traffic goes on without a control plane"
    finally:
        cluster.kubectl(*scale, "--replicas=1")
    eventually(lambda: installation.run("status").returncode == 0, "healthy again", within_s=60)


def test_a_wrong_value_is_one_line(installation: Installation) -> None:
    output = installation.culvert("install", f"--helm={installation.helm}", "--set=ztunel.x=1", status=1)
    assert len(output.splitlines()) == 1
    assert "ztunel" in output


def test_traffic_survives_an_uninstallation(installation: Installation) -> None:
    cluster = installation.cluster
    loop = "for i in $(seq 150); do curl -sS -m 3 -o /dev/null -w '%{http_code}\\n' http://details:9080/details/0; done"
    program = [str(Path(sys.executable).with_name("kubectl")), f"--kubeconfig={cluster.kubeconfig}"]
    with subprocess.Popen(
        [
            *program,
            "exec",
            "-n",
            "bookinfo",
            "deploy/curl",
            "--",
            "sh",
            "-c",
            loop.replace("; done", "; sleep 0.1; done"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        installation.uninstall()
        seen, _ = client.communicate(timeout=60)
    assert set(seen.split()) == {"200"}, seen
    assert {
        pod["metadata"].get("annotations", {}).get(names.REDIRECTION_ANNOTATION) for pod in bookinfo_pods(installation)
    } == {None}
    assert cluster.run("curl", *PAGE, namespace="bookinfo") == "200"


def pods(installation: Installation) -> set[str]:
    found = installation.cluster.resource("pods", "-n", names.DEFAULT_NAMESPACE)["items"]
    return {pod["metadata"]["uid"] for pod in found}


def bookinfo_pods(installation: Installation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = installation.cluster.resource("pods", "-n", "bookinfo")["items"]
    return found
