"""How the Kubernetes API is reached."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshkit.kube import Client, config, errors, from_kubeconfig
from tests.support.certificates import Issuer

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: it, user: me}}]
clusters: [{name: it, cluster: {server: 'https://api.example:6443', %s}}]
users: [{name: me, user: {%s}}]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    issuer = Issuer.root()
    chain, key = issuer.leaf([x509.DNSName("me")], usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    for name, content in (("roots", issuer.pem), ("chain", chain), ("key", key)):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_processes_in_pods_do_not_import_the_kubernetes_client() -> None:
    code = "import sys, nodeagent.app, controlplane.app; print([m for m in sys.modules if 'kubernetes' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_kubeconfig_is_taken_as_it_is(files: Path) -> None:
    cluster = f"certificate-authority: {files}/roots, tls-server-name: kubernetes, proxy-url: 'http://proxy:3128'"
    user = f"client-certificate: {files}/chain, client-key: {files}/key, token: secret"
    (files / "config").write_text(KUBECONFIG % (cluster, user))
    access = await from_kubeconfig(files / "config")
    assert (access.server, access.server_name) == ("https://api.example:6443", "kubernetes")
    assert access.proxy == "http://proxy:3128"
    assert await access.authorization() == "Bearer secret"
    context = access.tls()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [one["subject"] for one in context.get_ca_certs()] == [((("commonName", "root"),),)]


async def test_a_kubeconfig_may_disable_verification(files: Path) -> None:
    (files / "config").write_text(KUBECONFIG % ("insecure-skip-tls-verify: true", "token: secret"))
    context = (await from_kubeconfig(files / "config")).tls()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("wrong", ["roots", "chain", "key"])
@pytest.mark.parametrize("content", [None, b"nonsense"], ids=["missing", "nonsense"])
async def test_a_file_that_cannot_be_used_is_named(files: Path, wrong: str, content: bytes | None) -> None:
    (files / wrong).unlink()
    if content is not None:
        (files / wrong).write_bytes(content)
    access = config.explicit(
        "https://api.example", root_file=files / "roots", certificate_file=files / "chain", key_file=files / "key"
    )
    with pytest.raises(errors.ConfigError) as raised:
        async with Client(access):
            pass
    message = str(raised.value)
    assert message.startswith("cannot speak TLS to https://api.example: ")
    named = [name for name in ("roots", "chain", "key") if str(files / name) in message]
    # Of a certificate and a key that do not go together, the library does not know which one is wrong.
    assert named == (["chain", "key"] if content is not None and wrong != "roots" else [wrong])
