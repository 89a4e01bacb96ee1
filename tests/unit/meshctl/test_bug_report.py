"""A bug report has useful data and no secret from any source, and is made even if little data is available."""

import asyncio
import base64
import json
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from meshctl.report import archive
from meshctl.report.archive import Report
from meshctl.report.cleaning import clean_object, clean_text
from meshctl.report.collecting import collect
from meshkit import kube
from meshkit.kube import Json
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.kubernetes_objects import pod, policy

KEY = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)
BODY = KEY.splitlines()[1]


def _part(document: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(document, separators=(",", ":")).encode()).rstrip(b"=").decode()


TOKEN = f"{_part({'alg': 'RS256'})}.{_part({'sub': 'system:serviceaccount:shop:web'})}.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
SECRETS = (BODY, TOKEN, "c2lnbmF0dXJl", "hunter2hunter2", base64.b64encode(KEY.encode()).decode()[:60])
FORMS = (
    KEY,
    KEY.replace("\n", "\\n"),
    json.dumps({"key": KEY}),
    KEY[: len(KEY) // 2],
    KEY[40:],
    KEY.replace("\n", "\r\n"),
    base64.b64encode(KEY.encode()).decode(),
    TOKEN,
    f"authorization: Bearer {TOKEN}",
    "Authorization: Bearer hunter2hunter2",
    "password=hunter2hunter2",
    '"api_key": "hunter2hunter2"',
    '{"dbPassword":"quote\\"hunter2hunter2"}',
    "client-secret: 'hunter2hunter2'",
    "https://user:hunter2hunter2@example.test/x",
    f"\\n{TOKEN}{TOKEN}",
)


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_removed_in_every_form(form: str) -> None:
    cleaned = clean_text(f"before:\n{form}\nafter")
    assert cleaned.startswith("before:")
    assert not [secret for secret in SECRETS if secret in cleaned], cleaned


@given(st.lists(st.sampled_from(FORMS) | st.text(max_size=40), max_size=6), st.sampled_from(["", " ", "\n", "\t"]))
def test_no_concatenation_of_texts_reveals_a_secret(parts: list[str], between: str) -> None:
    cleaned = clean_text(between.join(parts))
    assert BODY not in cleaned
    assert "c2lnbmF0dXJlLW9mLXRoZS10b2tlbg" not in cleaned


def test_text_without_secrets_is_unchanged() -> None:
    text = "error: explicitly denied by: shop/allow-web\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    assert clean_text(text) == text
    line = "2026-01-01T00:00:00Z info access connection complete src.addr=10.0.0.1:1 dst.identity=spiffe://td/ns/a/sa/b"
    assert clean_text(line) == line


def test_a_very_long_line_takes_no_time() -> None:
    long = "a" * 2_000_000
    assert clean_text(long) == long


def test_objects_are_cleaned_by_their_fields() -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s", "managedFields": [{}]}, "data": {"anything": "aHVudGVyMg=="}}
    assert clean_object(secret) == {"kind": "Secret", "metadata": {"name": "s"}, "data": {"anything": "REMOVED"}}
    container = {"name": "c", "env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "MODE", "value": "fast"}]}
    cleaned = clean_object({"kind": "Pod", "spec": {"containers": [container]}})
    assert cleaned["spec"]["containers"][0]["env"] == [
        {"name": "DB_PASSWORD", "value": "REMOVED"},
        {"name": "MODE", "value": "fast"},
    ]
    copy = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"}
    assert clean_object({"metadata": {"annotations": copy}})["metadata"]["annotations"] == {"a": "b"}


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as packed:
        files = {entry.name.partition("/")[2]: packed.extractfile(entry) for entry in packed.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def a_cluster(api: FakeKubernetes) -> None:
    plane = pod("istiod-1", "istio-system", labels={"app": "istiod"}, ready=False)
    plane["spec"]["containers"] = [{"name": "discovery", "env": [{"name": "A_TOKEN", "value": "hunter2hunter2"}]}]
    api.put("pods", plane)
    api.put("pods", pod("web"))
    edge = pod("istio-ingressgateway-1", "istio-system")
    edge["spec"]["containers"] = [{"name": "istio-proxy", "env": [{"name": "NODE_TYPE", "value": "router"}]}]
    api.put("pods", edge)
    api.logs["istio-ingressgateway-1"] = b"all is well"
    leaking = policy("p", annotations={"note": f"token={TOKEN}"})
    api.put("authorizationpolicies", leaking)
    api.put(
        "secrets", {"metadata": {"name": "cacerts"}, "data": {"ca-key.pem": base64.b64encode(KEY.encode()).decode()}}
    )
    api.logs["istiod-1"] = f"started\n{KEY}\ngot {TOKEN}\n".encode()


async def made(api: FakeKubernetes, path: Path, *, piece_s: float = 10, total_s: float = 20) -> dict[str, str]:
    report = Report()
    async with kube.Client(kube.explicit(api.url)) as client:
        await collect(client, "istio-system", report, piece_s=piece_s, total_s=total_s)
    report.write(path)
    return contents(path)


async def test_nothing_secret_gets_into_the_archive(tmp_path: Path) -> None:
    async with FakeKubernetes() as api:
        a_cluster(api)
        found = await made(api, tmp_path / "report.tar.gz")
        assert not [request for request in api.requests if "/secrets" in request], "secrets are not even requested"
    assert "started" in found["pods/istiod-1/discovery.log"]
    assert found["pods/istio-ingressgateway-1/istio-proxy.log"].strip() == "all is well"
    assert "name: p" in found["cluster/authorizationpolicies.yaml"]
    assert "istiod-1" in found["system/pods.yaml"]
    everything = "\n".join(found.values())
    assert not [secret for secret in SECRETS if secret in everything]
    assert (tmp_path / "report.tar.gz").stat().st_mode & 0o777 == 0o600


async def test_failed_requests_are_listed_and_the_rest_is_collected(tmp_path: Path) -> None:
    async with FakeKubernetes() as api:
        a_cluster(api)
        api.refuse["GET /api/v1/nodes"] = 500
        api.refuse["GET /api/v1/namespaces/istio-system/events"] = 0  # no answer at all
        found = await made(api, tmp_path / "report.tar.gz", piece_s=0.5)
    assert "cluster/nodes.yaml" not in found
    assert "cluster/nodes.yaml: " in found["failures.txt"]
    assert "system/events.yaml: no answer within" in found["failures.txt"]
    assert "cluster/namespaces.yaml" in found


async def test_the_whole_report_has_a_timeout(tmp_path: Path) -> None:
    async with FakeKubernetes() as api:
        a_cluster(api)
        api.refuse["GET /apis"] = 0
        began = asyncio.get_running_loop().time()
        found = await made(api, tmp_path / "report.tar.gz", total_s=1.0)
        assert asyncio.get_running_loop().time() - began < 8
    assert "of the whole report" in found["failures.txt"]
    assert "pods/istiod-1/discovery.log" in found


def test_the_report_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRY", 1000)
    monkeypatch.setattr(archive, "MAX_TOTAL", 2500)
    report = Report()
    for number in range(4):
        report.text(f"{number}.log", "x\n" * 5000 + "the end\n")
    report.write(tmp_path / "r.tar.gz")
    found = contents(tmp_path / "r.tar.gz")
    assert sum(len(text) for name, text in found.items() if name != "failures.txt") <= 2500
    assert found["0.log"].endswith("the end\n")
    assert "3.log: left out" in found["failures.txt"]
