"""Revocation lists from an operator: which are rejected, and with which message."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from meshkit import revocation
from meshkit.revocation import BadRevocationLists
from tests.support.certificates import Issuer

PEM = serialization.Encoding.PEM
NUMBER = x509.CRLNumber(1)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer.root()


def distribution_point(**fields: object) -> x509.IssuingDistributionPoint:
    usual: dict[str, object] = {
        "full_name": [x509.UniformResourceIdentifier("http://x")],
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**usual, **fields})  # type: ignore[arg-type]


def test_lists_of_several_issuers_are_read_and_everything_beside_them_is_left_out(issuer: Issuer) -> None:
    other = issuer.intermediate(1)
    scoped = [NUMBER, distribution_point(only_contains_user_certs=True)]
    lists = [issuer.revoking(1, 2), other.revoking(extensions=scoped)]
    key = issuer.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    read = revocation.read(b"Certificate Revocation List\n" + lists[0] + key + issuer.pem + lists[1])
    assert [len(item) for item in read] == [2, 0]
    assert revocation.render(read).encode() == b"".join(lists)
    assert revocation.read(b" \n") == ()


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ([], "version 1"),
        ([NUMBER, x509.DeltaCRLIndicator(1)], "delta"),
        ([NUMBER, distribution_point(indirect_crl=True)], "indirect"),
        ([NUMBER, distribution_point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))], "reasons"),
        ([NUMBER, distribution_point(only_contains_attribute_certs=True)], "attributes"),
        ([NUMBER, distribution_point(full_name=None, only_contains_ca_certs=True)], "full name"),
        ([NUMBER, x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")], "1.2.3"),
    ],
    ids=["none", "delta", "indirect", "reasons", "attributes", "nameless scope", "unknown"],
)
def test_a_list_that_no_proxy_could_check_is_refused(
    issuer: Issuer, extensions: list[x509.ExtensionType], words: str
) -> None:
    bad = issuer.revoking(1, extensions=extensions)
    with pytest.raises(BadRevocationLists, match=f"list 2: .*{words}"):
        revocation.read(issuer.revoking(2) + bad)


def test_invalid_lists_are_refused(issuer: Issuer) -> None:
    whole = issuer.revoking(1)
    for bad in (b"no list", issuer.pem, whole[:-20], whole[: len(whole) // 2], whole + whole[:40]):
        with pytest.raises(BadRevocationLists, match="blocks X509 CRL"):
            revocation.read(bad)
    with pytest.raises(BadRevocationLists, match="list 1"):
        revocation.read(whole.replace(b"MI", b"MA", 1))


def test_an_expired_list_is_taken(issuer: Issuer) -> None:
    assert len(revocation.read(issuer.revoking(1, next_update=datetime(2020, 2, 1, tzinfo=UTC)))) == 1


def test_a_list_in_the_name_of_a_known_issuer_must_be_signed_by_it(issuer: Issuer) -> None:
    namesake, stranger = Issuer.root(), issuer.intermediate(1)
    forged = revocation.read(issuer.revoking(1, key=stranger.key))
    with pytest.raises(BadRevocationLists, match="list 1: not signed by the key of its issuer CN=root"):
        revocation.check_issuers(forged, [issuer.certificate])
    of_namesake = revocation.read(namesake.revoking(1))
    revocation.check_issuers(of_namesake, [issuer.certificate, namesake.certificate])
    revocation.check_issuers(revocation.read(stranger.revoking(1)), [issuer.certificate])


def test_an_issuer_without_key_usage_for_lists_is_reported(issuer: Issuer) -> None:
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment"), False)
    usage |= dict.fromkeys(("data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False)
    held = issuer.certificate
    builder = x509.CertificateBuilder(
        issuer_name=held.issuer, subject_name=held.subject, public_key=held.public_key(), serial_number=1,
        not_valid_before=held.not_valid_before_utc, not_valid_after=held.not_valid_after_utc,
    )  # fmt: skip
    for crl_sign in (False, True):
        extension = x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=crl_sign)
        certificate = builder.add_extension(extension, critical=True).sign(issuer.key, hashes.SHA256())
        lists = revocation.read(issuer.revoking(1))
        if crl_sign:
            revocation.check_issuers(lists, [certificate])
        else:
            with pytest.raises(BadRevocationLists, match="does not allow cRLSign"):
                revocation.check_issuers(lists, [certificate])
