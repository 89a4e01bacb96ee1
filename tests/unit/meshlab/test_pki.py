"""Certificates of a lab: their names and their usages."""

import datetime
import json
import ssl
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from meshlab.components import credentials
from meshlab.components.credentials import Credentials
from meshlab.pki import Pair
from meshlab.plan import LabPlan, plan

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def lab() -> LabPlan:
    return plan("lab", slot=1, nodes=2, dual_stack=True)


@pytest.fixture(scope="module")
def issued(lab: LabPlan) -> Credentials:
    return credentials.issue(lab, now=NOW)


def test_users_and_groups_are_the_ones_that_kubernetes_knows(issued: Credentials) -> None:
    assert _who(issued.nodes["node2"].client) == ("system:node:node2", "system:nodes")
    assert _who(issued.nodes["node2"].server) == ("system:node:node2", "system:nodes")
    assert _who(issued.controller_manager) == ("system:kube-controller-manager", "")
    assert _who(issued.scheduler) == ("system:kube-scheduler", "")
    assert _who(issued.kube_proxy) == ("system:kube-proxy", "")
    assert _who(issued.admin)[1] == "system:masters"


def test_every_certificate_is_signed_by_its_authority_and_valid_now(issued: Credentials) -> None:
    ca = x509.load_pem_x509_certificate(issued.authority.pair.certificate)
    pairs = [issued.api_server, issued.admin, *(node.server for node in issued.nodes.values())]
    for pair in pairs:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        certificate.verify_directly_issued_by(ca)
        assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc
    front = x509.load_pem_x509_certificate(issued.front_proxy.certificate)
    front.verify_directly_issued_by(x509.load_pem_x509_certificate(issued.front_proxy_authority.pair.certificate))


def test_the_api_server_answers_to_all_its_names(lab: LabPlan, issued: Credentials) -> None:
    names = x509.load_pem_x509_certificate(issued.api_server.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "kubernetes.default.svc.cluster.local" in names.value.get_values_for_type(x509.DNSName)
    addresses = set(names.value.get_values_for_type(x509.IPAddress))
    assert {*lab.control.addresses, *lab.api_service} <= addresses


def test_keys_are_written_for_their_owner_only(lab: LabPlan, issued: Credentials) -> None:
    files = [*credentials.control_files(lab, issued), *credentials.node_files(lab, issued, "node1")]
    for file in files:
        if b"PRIVATE KEY" in file.content or b"client-key-data" in file.content:
            assert file.mode == 0o600, file.path


def test_a_node_gets_no_other_nodes_key_and_not_the_authoritys(lab: LabPlan, issued: Credentials) -> None:
    content = b"".join(file.content for file in credentials.node_files(lab, issued, "node1"))
    assert issued.authority.pair.key not in content
    assert issued.nodes["node2"].client.key not in content


def test_the_admins_kubeconfig_can_be_used_for_tls(lab: LabPlan, issued: Credentials, tmp_path: Path) -> None:
    document = json.loads(credentials.admin_kubeconfig(lab, issued))
    user = document["users"][0]["user"]
    for name in ("client-certificate-data", "client-key-data"):
        (tmp_path / name).write_bytes(b64decode(user[name]))
    context = ssl.create_default_context(cadata=issued.authority.pair.certificate.decode())
    context.load_cert_chain(tmp_path / "client-certificate-data", tmp_path / "client-key-data")
    assert document["clusters"][0]["cluster"]["server"] == "https://198.18.1.2:6443"


def _who(pair: Pair) -> tuple[str, str]:
    subject = x509.load_pem_x509_certificate(pair.certificate).subject
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    name = subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return str(name), str(groups[0].value) if groups else ""
