"""Revocation from the operator's Secret to open connections, distributed to the nodes by Kubernetes."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from meshapi import names
from tests.support.lab import ROOT, eventually
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "revoked"
TRAVEL_S = 60 + 15 + 2 + 30
"""The control plane polls once a minute, the lab's kubelet every 5 s, the node agent every two; and a margin."""


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Iterator[Mesh]:
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "good", "node2")
    mesh.client(NS, "bad", "node2")
    for client in ("good", "bad"):
        eventually(lambda client=client: mesh.request(NS, client, "server").endswith("hello"), "the server is reached")
    try:
        yield mesh
    finally:
        mesh.lab.kubectl("delete", "secret", "-n", SYSTEM, names.CACERTS_SECRET, "--ignore-not-found")
        mesh.lab.kubectl("delete", "namespace", NS, "--ignore-not-found", "--wait=false")


def plug_in(mesh: Mesh, *serials: int) -> None:
    """Make ``cacerts`` of the lab's own root, so that nothing changes but the list."""
    made = mesh.lab.resource("secret", "-n", SYSTEM, names.CA_SECRET)["data"]
    certificate = x509.load_pem_x509_certificate(base64.b64decode(made["ca-cert.pem"]))
    key = serialization.load_pem_private_key(base64.b64decode(made["ca-key.pem"]), None)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(certificate.subject)
    builder = builder.last_update(now).next_update(now + timedelta(days=7))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.add_extension(x509.CRLNumber(1), critical=False).sign(key, hashes.SHA256())  # type: ignore[arg-type]
    lists = base64.b64encode(signed.public_bytes(serialization.Encoding.PEM)).decode()
    data = {**made, "root-cert.pem": made["ca-cert.pem"], "cert-chain.pem": "", names.CRL_KEY: lists}
    metadata = {"name": names.CACERTS_SECRET}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    mesh.lab.apply(json.dumps(secret), namespace=SYSTEM)


def serial_of(mesh: Mesh, account: str) -> int:
    command = [sys.executable, "-m", "meshctl", "ztunnel-config", "certificates", "-n", NS, "-o", "json"]
    command.append(f"--kubeconfig={mesh.lab.kubeconfig}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    identity = f"spiffe://cluster.local/ns/{NS}/sa/{account}"
    (found,) = [one for one in json.loads(done.stdout) if one["identity"] == identity]
    return int(found["certChain"][0]["serialNumber"])


def test_a_revoked_workload_is_refused_until_its_list_is_removed(app: Mesh) -> None:
    load = app.load(NS, "bad", "server", seconds=TRAVEL_S)
    plug_in(app, serial_of(app, "bad"))
    began = time.monotonic()
    eventually(
        lambda: not app.request(NS, "bad", "server").endswith("hello"), "the client is refused", within_s=TRAVEL_S
    )
    print(f"refused {time.monotonic() - began:.0f} s after the secret was written")
    app.logged(f"ns/{NS}/sa/bad", "inbound", "peer certificate revoked by CRL")
    assert app.request(NS, "good", "server").endswith("hello")
    for namespace in (NS, SYSTEM, "default"):
        app.lab.kubectl("get", "configmap", "-n", namespace, names.CRL_CONFIGMAP)
    app.lab.kubectl("delete", "secret", "-n", SYSTEM, names.CACERTS_SECRET)
    eventually(lambda: app.request(NS, "bad", "server").endswith("hello"), "the client is back", within_s=TRAVEL_S)
    left = app.lab.resource("configmaps", "-A", f"--field-selector=metadata.name={names.CRL_CONFIGMAP}")["items"]
    assert left == []
    assert load.report(within_s=TRAVEL_S * 2).failures != []
