"""Reviews one object for the API server. Pure. Format: ``admission.k8s.io/v1``, AdmissionReview."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from controlplane.envoy.patches import reading
from controlplane.inputs.kinds import KINDS
from controlplane.metrics import own_version
from meshapi.errors import InvalidResource, brief
from meshapi.resources import base
from meshapi.resources.envoy_filter import EnvoyFilter
from meshkit.kube import Json

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
_INVALID: Final = 422
_WARNINGS: Final = 10
_MODELS: Final = {(item.kind.group, item.kind.name): item.model for item in KINDS if item.is_mesh_resource}
"""By group and kind: all versions of a kind are read alike."""


class BadReview(ValueError):
    """What was sent is no request for a review; the text says why."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a review has found.

    Attributes:
        uid: of the request.
        group: of the object's kind.
        version: of the object's kind.
        resource: the kind in paths, as ``virtualservices``.
        fault: why the object cannot be used; empty: it can.
        warnings: what the user should know of an object that can be used.
    """

    uid: str
    group: str
    version: str
    resource: str
    fault: str = ""
    warnings: tuple[str, ...] = ()

    def answer(self) -> Json:
        """Return the response as the API server reads it."""
        response: Json = {"uid": self.uid, "allowed": not self.fault}
        if self.fault:
            response["status"] = {"code": _INVALID, "reason": "Invalid", "message": self.fault}
        elif self.warnings:
            response["warnings"] = list(self.warnings)
        return {"apiVersion": API_VERSION, "kind": KIND, "response": response}


def review(body: bytes) -> Reviewed:
    """Review the object in a request.

    What is being deleted is let through, and so is a change that leaves ``spec`` as it was: a finalizer or a label of
    an object from before the webhook can be changed.

    Raises:
        BadReview: the request cannot be read.
    """
    request = request_of(body)
    try:
        kind, resource = request["kind"], request["resource"]
        head = (request["uid"], kind["group"], kind["version"], resource["resource"])
        item, before = request.get("object"), request.get("oldObject")
    except (KeyError, TypeError, AttributeError) as error:
        raise _bad(error) from None
    model = _MODELS.get((kind["group"], kind["kind"]))
    if model is None or not isinstance(item, dict) or not _is_new(item, before):
        return Reviewed(*head)
    try:
        read = base.read(model, item)
    except InvalidResource as error:
        return Reviewed(*head, fault=f"configuration is invalid: {error}")
    unknown = (f"{brief(path)} is not known and ignored" for path in base.unknown_fields(read))
    unapplied = reading.read(read, own_version()).problems if isinstance(read, EnvoyFilter) else ()
    return Reviewed(*head, warnings=(*unknown, *map(brief, unapplied))[:_WARNINGS])


def request_of(body: bytes) -> dict[str, Any]:
    """Return the request in what the API server has sent.

    Raises:
        BadReview: there is none.
    """
    try:
        request = msgspec.json.decode(body)["request"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise _bad(error) from None
    if not isinstance(request, dict):
        raise _bad(TypeError("request is no object"))
    return request


def _bad(error: Exception) -> BadReview:
    return BadReview(f"not a request of an {KIND}: {type(error).__name__}: {error}")


def _is_new(item: dict[str, Any], before: Any) -> bool:
    """Return whether an object says something that the one before did not say."""
    if (item.get("metadata") or {}).get("deletionTimestamp"):
        return False
    return not isinstance(before, dict) or before.get("spec") != item.get("spec")
