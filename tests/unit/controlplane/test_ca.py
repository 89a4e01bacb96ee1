"""The certificate authority's rules and certificates, without a network."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from controlplane.ca import authority, node_authorizer
from controlplane.ca.errors import BadAuthority, BadRequest, NoPodOnNode, Refused
from meshapi.identity import SpiffeId
from meshapi.resources import base, core
from meshkit.kube.objects import TokenOwner
from tests.support import kubernetes_objects as objects

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TRUSTED = frozenset({("istio-system", "ztunnel")})
AGENT = TokenOwner("istio-system", "ztunnel", "zt-1", "uid-zt-1")
WEB = "spiffe://cluster.local/ns/shop/sa/web"


class Pods:
    def __init__(self, *items: dict[str, object]) -> None:
        self.items = [base.read(core.Pod, item) for item in items]

    def pod(self, namespace: str, name: str) -> core.Pod | None:
        return next((item for item in self.items if item.key == (namespace, name)), None)

    def pods_on(self, node: str) -> list[core.Pod]:
        return [item for item in self.items if item.spec.node_name == node]


AGENT_POD = objects.pod("zt-1", "istio-system", account="ztunnel")


def decide(caller: TokenOwner, impersonated: str, *pods: dict[str, object]) -> SpiffeId:
    return node_authorizer.authorize(
        caller, impersonated, trust_domain="cluster.local", trusted=TRUSTED, pods=Pods(*pods)
    )


def test_every_workload_gets_its_own_identity() -> None:
    assert str(decide(TokenOwner("shop", "web"), "")) == WEB


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_agent_gets_identities_of_its_node(phase: str) -> None:
    assert str(decide(AGENT, WEB, AGENT_POD, objects.pod("w", account="web", phase=phase))) == WEB


@pytest.mark.parametrize(
    ("caller", "impersonated", "pods"),
    [
        (TokenOwner("shop", "ztunnel", "w", "uid-w"), WEB, [objects.pod("w", account="web")]),
        (TokenOwner("istio-system", "ztunnel"), WEB, [AGENT_POD, objects.pod("w", account="web")]),
        (AGENT, "web", [AGENT_POD]),
        (AGENT, WEB.replace("cluster.local", "other"), [AGENT_POD, objects.pod("w", account="web")]),
        (AGENT, WEB, [AGENT_POD, objects.pod("w", account="web", node="node-2")]),
        (AGENT, WEB, [AGENT_POD, objects.pod("w", account="web", phase="Succeeded")]),
        (AGENT, WEB, [AGENT_POD, objects.pod("w", account="web", phase="Failed")]),
        (AGENT, WEB, [AGENT_POD, objects.pod("w", "other", account="web")]),
        (AGENT, WEB, [objects.pod("w", account="web")]),
        (
            AGENT,
            WEB,
            [
                objects.pod("zt-1", "istio-system", account="ztunnel", uid="an-earlier-one"),
                objects.pod("w", account="web"),
            ],
        ),
        (AGENT, WEB, [objects.pod("zt-1", "istio-system", account="else"), objects.pod("w", account="web")]),
    ],
    ids=[
        "not trusted",
        "token not bound to a pod",
        "not an identity",
        "other trust domain",
        "pod on another node",
        "pod has ended",
        "pod has failed",
        "same account in another namespace",
        "caller's pod unknown",
        "caller's pod is another",
        "caller's pod has another account",
    ],
)
def test_refusals(caller: TokenOwner, impersonated: str, pods: list[dict[str, object]]) -> None:
    with pytest.raises(Refused):
        decide(caller, impersonated, *pods)


def test_only_a_pod_missing_from_its_node_is_a_temporary_refusal() -> None:
    with pytest.raises(NoPodOnNode):
        decide(AGENT, WEB, AGENT_POD)
    with pytest.raises(Refused) as caught:
        decide(TokenOwner("shop", "web"), WEB)
    assert not isinstance(caught.value, NoPodOnNode)


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def test_requested_key() -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        assert authority.requested_key(csr(key)) == key.public_key()
    weak = [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP224R1())]
    for key in (*weak, rsa.generate_private_key(65537, 1024)):
        with pytest.raises(BadRequest, match="P-256"):
            authority.requested_key(csr(key))  # type: ignore[arg-type]
    whole = csr(ec.generate_private_key(ec.SECP256R1()))
    for text in ("", "x" * 20_000, whole.replace("MI", "MA", 1), whole[:80]):
        with pytest.raises(BadRequest):
            authority.requested_key(text)


def made(life: timedelta = timedelta(days=3650)) -> authority.Authority:
    certificate, key = authority.self_signed(trust_domain="cluster.local", now=NOW, life=life)
    return authority.Authority.load(certificate_pem=certificate, key_pem=key)


def issue(signer: authority.Authority, life: timedelta = timedelta(hours=24), now: datetime = NOW) -> list[str]:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return signer.issue(key, uri=WEB, now=now, life=life)


def test_leaf_of_a_self_made_root() -> None:
    signer = made()
    leaf_pem, root_pem = issue(signer)
    leaf = x509.load_pem_x509_certificate(leaf_pem.encode())
    assert x509.load_pem_x509_certificate(root_pem.encode()) == signer.certificate
    assert not list(leaf.subject)
    assert NOW - timedelta(minutes=5) < leaf.not_valid_before_utc < NOW
    assert leaf.not_valid_after_utc == NOW + timedelta(hours=24)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_leaf_never_outlasts_its_signer_and_an_expired_signer_signs_nothing() -> None:
    signer = made(timedelta(hours=1))
    leaf = x509.load_pem_x509_certificate(issue(signer)[0].encode())
    assert leaf.not_valid_after_utc == signer.expires
    with pytest.raises(BadAuthority, match="expired"):
        issue(signer, now=NOW + timedelta(hours=2))


def intermediate(root: authority.Authority) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "intermediate")]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), authority.key_pem(key)


@pytest.mark.parametrize("chain", ["none", "intermediate", "intermediate and root"])
def test_leaf_of_an_intermediate_comes_with_its_chain_once(chain: str) -> None:
    root = made()
    certificate, key = intermediate(root)
    chains = {"none": b"", "intermediate": certificate, "intermediate and root": certificate + root.roots_pem.encode()}
    signer = authority.Authority.load(
        certificate_pem=certificate, key_pem=key, chain_pem=chains[chain], roots_pem=root.roots_pem.encode()
    )
    result = issue(signer)
    assert len(result) == 3
    leaf, middle, last = (x509.load_pem_x509_certificate(item.encode()) for item in result)
    leaf.verify_directly_issued_by(middle)
    middle.verify_directly_issued_by(last)


def test_unusable_authorities_are_named() -> None:
    certificate, key = authority.self_signed(trust_domain="x", now=NOW, life=timedelta(days=1))
    _, other = authority.self_signed(trust_domain="x", now=NOW, life=timedelta(days=1))
    load = authority.Authority.load
    with pytest.raises(BadAuthority, match=r"ca-cert\.pem"):
        load(certificate_pem=b"", key_pem=key)
    with pytest.raises(BadAuthority, match=r"ca-key\.pem"):
        load(certificate_pem=certificate, key_pem=b"rubbish")
    with pytest.raises(BadAuthority, match="not the key"):
        load(certificate_pem=certificate, key_pem=other)
    leaf = issue(made())[0].encode()
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    signed = made().issue(leaf_key.public_key(), uri=WEB, now=NOW, life=timedelta(hours=1))[0].encode()
    assert leaf != signed
    with pytest.raises(BadAuthority, match="CA:TRUE"):
        load(certificate_pem=signed, key_pem=authority.key_pem(leaf_key))
