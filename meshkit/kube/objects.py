"""Small writes to single objects: status, annotations, config maps, secrets; and TokenReview."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshkit.kube import errors, kinds
from meshkit.kube.client import Client, Json, PatchType


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """The service account of a token, as the API server reports it.

    Attributes:
        namespace: of the service account.
        service_account: its name.
        pod: name of the pod that the token is bound to; empty for an unbound token.
        pod_uid: UID of that pod; empty for an unbound token.
    """

    namespace: str
    service_account: str
    pod: str = ""
    pod_uid: str = ""


async def annotate_through_status(
    client: Client, kind: kinds.Kind, name: str, namespace: str, annotations: Mapping[str, str | None]
) -> Json:
    """Set annotations with the right on the ``status`` subresource only. Raises ``KubeError``."""
    body: Json = {"metadata": {"annotations": dict(annotations)}}
    return await client.patch(kind, name, body, namespace, patch_type=PatchType.STRATEGIC, subresource="status")


async def label_through_status(
    client: Client, kind: kinds.Kind, name: str, namespace: str, labels: Mapping[str, str | None]
) -> Json:
    """Set labels with the right on the ``status`` subresource only. Raises ``KubeError``."""
    body: Json = {"metadata": {"labels": dict(labels)}}
    return await client.patch(kind, name, body, namespace, patch_type=PatchType.STRATEGIC, subresource="status")


async def create_if_missing(client: Client, kind: kinds.Kind, body: Json, namespace: str | None = None) -> Json:
    """Return the object that is there afterwards: ours, or the one that was first. Raises ``KubeError``."""
    name = body["metadata"]["name"]
    existing = await client.find(kind, name, namespace)
    if existing is not None:
        return existing
    try:
        return await client.create(kind, body, namespace)
    except errors.Conflict:
        return await client.get(kind, name, namespace)


async def ensure_config_map(
    client: Client, name: str, namespace: str, data: Mapping[str, str], labels: Mapping[str, str] | None = None
) -> bool:
    """Make the config map hold at least ``data``; return whether anything was written. Raises ``KubeError``."""
    existing = await client.find(kinds.CONFIG_MAP, name, namespace)
    if existing is not None:
        held = existing.get("data") or {}
        if all(held.get(key) == value for key, value in data.items()):
            return False
        await client.patch(kinds.CONFIG_MAP, name, {"data": dict(data)}, namespace)
        return True
    body: Json = {"metadata": {"name": name, "labels": dict(labels or {})}, "data": dict(data)}
    try:
        await client.create(kinds.CONFIG_MAP, body, namespace)
    except errors.Conflict:
        await client.patch(kinds.CONFIG_MAP, name, {"data": dict(data)}, namespace)
    return True


def secret_data(secret: Json) -> dict[str, bytes]:
    """Return a secret's values, decoded.

    Raises:
        KubeError: a value is not base64, which the API server would not have stored.
    """
    try:
        return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
    except binascii.Error as error:
        raise errors.KubeError(f"Secret {secret['metadata']['name']}: {error}") from error


def secret_body(name: str, data: Mapping[str, bytes], kind: str = "Opaque") -> Json:
    """Return the body of a secret."""
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": {"name": name}, "type": kind, "data": encoded}


async def review_token(client: Client, token: str, audiences: Sequence[str]) -> TokenOwner | None:
    """Have the API server review a service-account token; ``None`` if it is invalid or for another audience.

    Raises:
        KubeError: the API server could not be reached or refused.
    """
    body: Json = {"metadata": {}, "spec": {"token": token, "audiences": list(audiences)}}
    answer = await client.create(kinds.TOKEN_REVIEW, body)
    status = answer.get("status") or {}
    if not status.get("authenticated") or not set(status.get("audiences") or []) & set(audiences):
        return None
    user = status.get("user") or {}
    prefix, _, account = str(user.get("username", "")).partition("serviceaccount:")
    namespace, _, name = account.partition(":")
    if prefix != "system:" or not namespace or not name:
        return None
    extra = user.get("extra") or {}
    return TokenOwner(
        namespace=namespace,
        service_account=name,
        pod=_first(extra.get("authentication.kubernetes.io/pod-name")),
        pod_uid=_first(extra.get("authentication.kubernetes.io/pod-uid")),
    )


def _first(values: object) -> str:
    return str(values[0]) if isinstance(values, list) and values else ""
