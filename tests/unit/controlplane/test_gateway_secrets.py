"""Secrets that gateways refer to: each is watched by itself, checked, and followed."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.ambient.model import Model, create
from controlplane.envoy import layer7
from controlplane.gateways.secrets import read
from controlplane.inputs.mesh import MeshContext
from controlplane.proxy_secrets import ProxySecrets
from meshapi.resources import base, gateway
from meshkit import kube
from meshkit.kube import Json
from tests.support.authority import TestAuthority
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until

AUTHORITY = TestAuthority()


def secret(chain: bytes, key: bytes, name: str = "web", namespace: str = "shop") -> Json:
    data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(key).decode()}
    return {"metadata": {"name": name, "namespace": namespace}, "type": "kubernetes.io/tls", "data": data}


def private(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    return base64.b64encode(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())).decode()


def test_a_pair_is_taken_and_its_end_is_known() -> None:
    chain, key = AUTHORITY.issue_for_hosts("web.example")
    found = read(secret(chain, key))
    now = datetime.now(UTC)
    assert found.at(now).chain.encode() == chain
    assert not found.at(now).fault
    assert not found.at(now).warning
    assert "expired" in found.at(now + timedelta(days=1)).warning


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "has no key tls.crt"),
        ({"tls.crt": "!"}, "has no base64 in tls.crt"),
        ({"tls.crt": "QQ==" * 40_000}, "has more than 64 kB"),
        ({"tls.crt": "QQ==", "tls.key": "QQ=="}, "has no certificate in tls.crt"),
        ({"tls.key": "QQ=="}, "has no usable private key"),
        ({"tls.key": private(ed25519.Ed25519PrivateKey.generate())}, "neither RSA nor ECDSA"),
        ({"tls.key": private(rsa.generate_private_key(65537, 1024))}, "RSA key of 1024 bits"),
    ],
)
def test_a_pair_that_no_proxy_takes_is_refused_with_the_reason(data: Json, fault: str) -> None:
    chain, key = AUTHORITY.issue_for_hosts("web.example")
    good = secret(chain, key)["data"]
    wanted = data if not data or set(data) != {"tls.key"} else {**good, **data}
    assert fault in read({"data": wanted}).secret.fault


@contextlib.asynccontextmanager
async def following(api: FakeKubernetes) -> AsyncIterator[tuple[Model, ProxySecrets]]:
    model = create(MeshContext())
    async with kube.Client(kube.explicit(api.url)) as client, asyncio.TaskGroup() as tasks:
        secrets = ProxySecrets(
            model.inputs, model.gateways, layer7.create(model).envoy.credentials, lambda _: None, client
        )
        task = tasks.create_task(secrets.run())
        yield model, secrets
        task.cancel()


def put_gateway(model: Model, *names: str, namespace: str = "") -> None:
    references = [{"name": name, **({"namespace": namespace} if namespace else {})} for name in names]
    listener = {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": references}}
    spec = {"gatewayClassName": "istio", "listeners": [listener]}
    item = base.read(gateway.Gateway, {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    model.inputs.of(gateway.Gateway).set(item.key, item)
    model.flush()


async def test_a_secret_that_is_wanted_is_followed_until_nothing_wants_it() -> None:
    async with FakeKubernetes() as api, following(api) as (model, secrets):
        put_gateway(model, "web")
        assert secrets.pending() == {("shop", "web")}
        await until(lambda: model.inputs.secrets.find(("shop", "web")))
        assert model.inputs.secrets.find(("shop", "web")).fault == "does not exist"  # type: ignore[union-attr]
        chain, key = AUTHORITY.issue_for_hosts("web.example")
        api.put("secrets", secret(chain, key), "shop")
        await until(lambda: model.inputs.secrets.find(("shop", "web")).chain)  # type: ignore[union-attr]
        model.flush()
        assert model.gateways.known.find(("shop", "web")).served  # type: ignore[union-attr]
        api.remove("secrets", "web", "shop")
        await until(lambda: model.inputs.secrets.find(("shop", "web")).fault)  # type: ignore[union-attr]
        put_gateway(model, "other")
        await until(lambda: model.inputs.secrets.find(("shop", "web")) is None)


async def test_secrets_that_no_gateway_may_use_are_never_requested() -> None:
    """tenant-crossing: a Gateway that names a Secret of another namespace does not have it read."""
    async with FakeKubernetes() as api, following(api) as (model, secrets):
        chain, key = AUTHORITY.issue_for_hosts("bank.example")
        api.put("secrets", secret(chain, key, "bank", "bank"), "bank")
        put_gateway(model, "bank", namespace="bank")
        assert not secrets.pending()
        await asyncio.sleep(0)
        assert not list(model.inputs.secrets)
        [listener] = model.gateways.known.find(("shop", "web")).listeners  # type: ignore[union-attr]
        assert listener.resolved.reason == "RefNotPermitted"
