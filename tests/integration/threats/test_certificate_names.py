"""Threat ``certificate-names``: certificate name matching (CVE-2025-66220, CVE-2026-47778): a name that is not
exactly a workload's identity matches none.
"""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from tests.integration.threats.conftest import PORT, Scene
from tests.support import attacker, namespaced
from tests.support.certificates import Issuer, IssuesAs
from tests.support.waiting import until

pytestmark = pytest.mark.root

WEB = "spiffe://cluster.local/ns/shop/sa/web"


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def other_name(text: str) -> x509.GeneralName:
    """OTHERNAME whose value holds an IA5String, as a URI would."""
    return x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x16" + bytes([len(text)]) + text.encode())


REFUSED: dict[str, list[x509.GeneralName]] = {
    "nul-at-the-end": [uri(f"{WEB}\0")],
    "nul-inside": [uri("spiffe://cluster.local\0.evil/ns/shop/sa/web")],
    "nul-before-rest": [uri(f"{WEB}\0.evil.example")],
    "other-name": [other_name(WEB)],
    "dns-name": [x509.DNSName("cluster.local")],
    "wildcard-domain": [uri("spiffe://*/ns/shop/sa/web")],
    "wildcard-account": [uri("spiffe://cluster.local/ns/shop/sa/*")],
    "two-identities": [uri(WEB), uri("spiffe://cluster.local/ns/shop/sa/admin")],
    "foreign-first": [uri("spiffe://evil/ns/shop/sa/admin"), uri(WEB)],
    "hidden-behind": [uri("SPIFFE://evil/x"), uri(WEB)],
    "scheme-in-capitals": [uri(WEB.replace("spiffe", "SPIFFE"))],
    "domain-in-capitals": [uri(WEB.replace("cluster.local", "CLUSTER.LOCAL"))],
    "ns-in-capitals": [uri(WEB.replace("/ns/", "/NS/"))],
    "domain-with-dot": [uri(WEB.replace("cluster.local", "cluster.local."))],
    "subdomain": [uri(WEB.replace("cluster.local", "a.cluster.local"))],
    "userinfo": [uri("spiffe://admin@cluster.local/ns/shop/sa/web")],
    "domain-as-user": [uri("spiffe://cluster.local@evil/ns/shop/sa/web")],
    "port": [uri("spiffe://cluster.local:443/ns/shop/sa/web")],
    "query": [uri(f"{WEB}?x=/ns/shop/sa/admin")],
    "fragment": [uri(f"{WEB}#x")],
    "escaped-slash": [uri(f"{WEB}%2fadmin")],
    "dot-segments": [uri("spiffe://cluster.local/ns/dev/../ns/shop/sa/web")],
    "double-slash": [uri("spiffe://cluster.local/ns//sa/web")],
    "trailing-slash": [uri(f"{WEB}/")],
    "other-scheme": [uri(WEB.replace("spiffe", "https"))],
    "too-long": [uri(f"{WEB}{'a' * 70_000}")],
    "nothing": [],
}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer.root()


@pytest.fixture
async def scene(issuer: Issuer):
    async with namespaced.mesh(authority=IssuesAs(issuer)) as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client")
        outsider = await mesh.pod("outsider", captured=False)
        yield Scene(mesh, server, client, outsider, await server.serve_peer(PORT))


async def served(scene: Scene, context: ssl.SSLContext) -> bool:
    """Whether a client gets as far as an answer to a CONNECT."""
    try:
        async with scene.attack(context=context) as attack:
            attack.connect(1, scene.authority)
            await attack.answer(1)
    except (OSError, ConnectionError):
        return False
    return True


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_certificate_without_a_valid_identity_is_refused_in_the_handshake(
    scene: Scene, issuer: Issuer, kind: str
) -> None:
    async with scene.others_are_served():
        chain, key = issuer.leaf(REFUSED[kind])
        assert not await served(scene, attacker.tls_context(chain, key, issuer.pem))
        await until(lambda: scene.metric("culvert_connections_rejected", reason="handshake_failed") == 1)
    assert set(scene.seen) == {scene.client.ip}


async def test_the_same_certificate_with_a_good_name_is_served(scene: Scene, issuer: Issuer) -> None:
    chain, key = issuer.leaf([uri("https://example.com/"), uri(WEB), x509.DNSName("web"), other_name("x")])
    assert await served(scene, attacker.tls_context(chain, key, issuer.pem))
    await scene.server.node.logged(src__identity=WEB)


@pytest.mark.parametrize("fault", ["expired", "not-yet-valid", "for-servers-only", "self-signed", "other-root", "a-ca"])
async def test_an_invalid_certificate_is_refused(scene: Scene, issuer: Issuer, fault: str) -> None:
    hour = datetime.timedelta(hours=1)
    names = [uri(WEB)]
    match fault:
        case "expired":
            chain, key = issuer.leaf(names, started=-2 * hour, life=hour)
        case "not-yet-valid":
            chain, key = issuer.leaf(names, started=hour)
        case "for-servers-only":
            chain, key = issuer.leaf(names, usages=[ExtendedKeyUsageOID.SERVER_AUTH])
        case "self-signed" | "other-root":
            # A root of the same name, another key; sent along, it still is no root of ours.
            stranger = Issuer.root()
            chain, key = stranger.leaf(names)
            chain += stranger.pem if fault == "self-signed" else b""
        case _:
            # A leaf signs a leaf: the first is no authority.
            middle, middle_key = issuer.leaf(names)
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            signer = Issuer(x509.load_pem_x509_certificate(middle), load_pem_private_key(middle_key, None))
            chain, key = signer.leaf([uri("spiffe://cluster.local/ns/shop/sa/admin")])
            chain += middle
    assert not await served(scene, attacker.tls_context(chain, key, issuer.pem))
    assert scene.seen == []


async def test_a_client_without_a_certificate_is_refused(scene: Scene, issuer: Issuer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=issuer.pem.decode())
    context.set_alpn_protocols(["h2"])
    assert not await served(scene, context)
    assert scene.seen == []
