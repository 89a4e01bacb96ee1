"""The operator's revocation lists, from the secret to every namespace."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controlplane.ca.revocation import Revocations
from meshapi import names
from meshkit.kube import objects
from tests.support.certificates import Issuer
from tests.support.running_control_plane import Running
from tests.support.waiting import until

PEM = serialization.Encoding.PEM


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer.root()


async def plug_in(running: Running, issuer: Issuer, lists: bytes | None) -> None:
    """Write ``cacerts`` and let the control plane look at it, as it does once a minute."""
    key = issuer.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    data = {"ca-cert.pem": issuer.pem, "ca-key.pem": key, "root-cert.pem": issuer.pem, "cert-chain.pem": b""}
    if lists is not None:
        data[names.CRL_KEY] = lists
    running.api.put("secrets", objects.secret_body(names.CACERTS_SECRET, data), "istio-system")
    await running.plane._signing.load("cluster.local")


def published(running: Running, namespace: str) -> str | None:
    found = running.api.get("configmaps", names.CRL_CONFIGMAP, namespace)
    return None if found is None else str(found["data"][names.CRL_KEY])


async def test_lists_come_change_and_go_in_every_namespace(running: Running, issuer: Issuer) -> None:
    assert published(running, "shop") is None
    for serial in (1, 2):
        lists = issuer.revoking(serial)
        await plug_in(running, issuer, lists)
        for namespace in ("shop", "istio-system"):
            await until(lambda n=namespace, lists=lists: published(running, n) == lists.decode())  # type: ignore[misc]
    running.api.put("namespaces", {"metadata": {"name": "later"}, "status": {"phase": "Active"}})
    await until(lambda: published(running, "later") is not None)
    running.api.remove("configmaps", names.CRL_CONFIGMAP, "shop")
    await until(lambda: published(running, "shop") is not None)
    foreign = {"metadata": {"name": names.CRL_CONFIGMAP}, "data": {names.CRL_KEY: "another owner's"}}
    await plug_in(running, issuer, None)
    for namespace in ("shop", "istio-system", "later"):
        await until(lambda n=namespace: published(running, n) is None)  # type: ignore[misc]
    running.api.put("configmaps", foreign, "shop")
    running.api.put("namespaces", {"metadata": {"name": "after"}, "status": {"phase": "Active"}})
    await until(lambda: running.api.get("configmaps", names.ROOT_CERT_CONFIGMAP, "after"))
    assert published(running, "shop") == "another owner's"


async def test_invalid_lists_leave_the_published_ones_in_force_and_are_logged_once(
    running: Running, issuer: Issuer, capsys: pytest.CaptureFixture[str]
) -> None:
    good = issuer.revoking(1)
    await plug_in(running, issuer, good)
    await until(lambda: published(running, "shop") == good.decode())
    capsys.readouterr()
    for bad, reason in (
        (b"no list", "blocks X509 CRL"),
        (good + issuer.revoking(2, key=Issuer.root().key), "list 2: not signed by the key of its issuer CN=root"),
    ):
        for _ in range(3):
            await plug_in(running, issuer, bad)
        logged = [
            line for line in "".join(capsys.readouterr()).splitlines() if "revocation lists cannot be used" in line
        ]
        assert len(logged) == 1
        for part in (f"istio-system/{names.CACERTS_SECRET}", names.CRL_KEY, reason, "fix="):
            assert part in logged[0]
        assert running.plane._signing.revocations.pem == good.decode()
    other = Issuer.root()
    await plug_in(running, other, None)
    await until(lambda: published(running, "shop") is None)
    assert running.plane._signing.current.certificate == other.certificate


def test_a_key_beside_the_lists_is_not_published(issuer: Issuer) -> None:
    key = issuer.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    revocations = Revocations("istio-system/cacerts")
    lists = issuer.revoking(1)
    revocations.take(key + lists + key, [issuer.certificate])
    assert revocations.pem == lists.decode()


def test_lists_published_before_a_restart_stay_while_the_secret_is_invalid(issuer: Issuer) -> None:
    revocations = Revocations("istio-system/cacerts")
    changes: list[str | None] = []
    revocations.on_change(lambda: changes.append(revocations.pem))
    revocations.take(b"no list", [issuer.certificate])
    assert revocations.pem is None, "not known: the config maps are not touched"
    revocations.take(b"", [issuer.certificate])
    assert changes == [""]
    revocations.take(b"", [x509.load_pem_x509_certificate(Issuer.root().pem)])
    assert changes == [""], "other authorities, the same lists"
