"""Gateway injection: pods that ask to be gateways get what a gateway's pod has. Pure.

Source: Istio's documentation of gateway injection and its chart ``gateway``: a pod asks by the template ``gateway``,
and its container ``istio-proxy`` has the image ``auto``. What a pod has of its own stays; the rest is as in the pods
that the control plane makes (``controlplane.proxies.pods``). There are no sidecars: who asks for one gets a warning.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from controlplane.gateways import place
from controlplane.gateways.classes import EDGE
from controlplane.inputs.mesh import MeshContext
from controlplane.proxies import pods
from controlplane.proxies.defaults import ProxyDefaults
from controlplane.webhook.review import API_VERSION, KIND, BadReview, request_of
from meshapi import names
from meshapi.errors import InvalidResource
from meshapi.resources import base, core
from meshapi.resources.gateway import Gateway
from meshkit.kube import Json, Kind, kinds

_GATEWAY: Final = "gateway"
_AUTO: Final = "auto"
_ALWAYS: Final = "Always"
_CONTAINERS: Final = "/spec/containers/"
_REFUSED: Final = 422
_SIDECAR: Final = (
    "the pod is admitted as it is: Culvert has no sidecars; label its namespace istio.io/dataplane-mode=ambient, "
    f"or, for a gateway, write the annotation {names.INJECT_TEMPLATES}: {_GATEWAY}"
)
_NO_CONTAINER: Final = (
    f"the pod is admitted as it is: it asks to be a gateway and has no container {pods.CONTAINER}; "
    f"add one with image: {_AUTO}"
)


@dataclass(frozen=True, slots=True)
class Injected:
    """What becomes of a pod.

    Attributes:
        uid: of the request.
        pod: namespace and name, or the beginning of its name.
        changes: paths of the pod to their new values.
        warning: what its user should know; empty: nothing.
        fault: why it cannot be admitted; empty: it can.
    """

    uid: str
    pod: str
    changes: tuple[tuple[str, Any], ...] = ()
    warning: str = ""
    fault: str = ""

    def answer(self) -> Json:
        """Return the response as the API server reads it (``admission.k8s.io/v1``, JSON Patch of RFC 6902)."""
        response: Json = {"uid": self.uid, "allowed": not self.fault}
        if self.fault:
            response["status"] = {"code": _REFUSED, "reason": "Invalid", "message": self.fault}
        if self.warning:
            response["warnings"] = [self.warning]
        if self.changes:
            patch = [{"op": _operation(path), "path": path, "value": value} for path, value in self.changes]
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(patch)).decode()}
        return {"apiVersion": API_VERSION, "kind": KIND, "response": response}


def _operation(path: str) -> str:
    """An added member of an object replaces the one that is there; an added element of a list comes before it."""
    return "replace" if path.startswith(_CONTAINERS) else "add"


def inject(body: bytes, mesh: MeshContext, defaults: ProxyDefaults) -> Injected:
    """Return what becomes of the pod in a request.

    Args:
        body: the request.
        mesh: the mesh.
        defaults: of the installation.

    Raises:
        BadReview: the request cannot be read.
    """
    request = request_of(body)
    try:
        item, metadata = request["object"], request["object"]["metadata"]
        namespace = request.get("namespace") or metadata.get("namespace", "")
        name = metadata.get("name") or metadata.get("generateName", "")
        head = (request["uid"], f"{namespace}/{name}")
        asked = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
        containers = item["spec"]["containers"]
        index = next((number for number, one in enumerate(containers) if one["name"] == pods.CONTAINER), None)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadReview(f"not a request about a pod: {type(error).__name__}: {error}") from None
    if asked.get(names.INJECT_LABEL) == "false":
        return Injected(*head)
    if _GATEWAY not in str(asked.get(names.INJECT_TEMPLATES, "")).split(","):
        return Injected(*head, warning=_SIDECAR)
    if index is None:
        return Injected(*head, warning=_NO_CONTAINER)
    if not defaults.image:
        fault = f"Pod {head[1]}: the control plane has no image for gateways; set waypoint.image in its chart"
        return Injected(*head, fault=fault)
    try:
        wanted = _template({**item, "metadata": {**metadata, "namespace": namespace, "name": name}}, mesh, defaults)
    except InvalidResource as error:
        return Injected(*head, fault=f"Pod {head[1]}: {error}")
    return Injected(*head, changes=tuple(_changes(item, index, wanted)))


def _template(item: Json, mesh: MeshContext, defaults: ProxyDefaults) -> Json:
    """Return the pod that the control plane would make, of a Gateway with the pod's own annotations."""
    pod = base.read(core.Pod, item)
    metadata = item["metadata"]
    own = {name: metadata.get(name) or {} for name in ("labels", "annotations")}
    workload = place.of_pod(pod).workload
    given = {"name": workload, "namespace": metadata["namespace"], **own}
    grace = item["spec"].get("terminationGracePeriodSeconds", defaults.grace_period_s)
    return pods.template(
        base.read(Gateway, {"metadata": given, "spec": {"gatewayClassName": EDGE.name}}),
        EDGE,
        mesh,
        replace(defaults, grace_period_s=grace, pod={}),
        name=workload,
        account=pod.spec.service_account_name,
        labels={},
        annotations={},
        owner=_owner(pod),
    )


def _owner(pod: core.Pod) -> Kind:
    """Return the kind of what a pod belongs to: its ReplicaSet belongs to a Deployment."""
    is_of_nodes = any(one.controller and one.kind == kinds.DAEMON_SET.name for one in pod.metadata.owner_references)
    return kinds.DAEMON_SET if is_of_nodes else kinds.DEPLOYMENT


def _changes(item: Json, index: int, wanted: Json) -> Iterable[tuple[str, Any]]:
    """Yield what a pod lacks: a part of it is replaced by the same with what is missing."""
    for part in ("labels", "annotations"):
        yield f"/metadata/{part}", {**wanted["metadata"][part], **(item["metadata"].get(part) or {})}
    spec, made = item["spec"], wanted["spec"]
    [container] = made["containers"]
    yield f"{_CONTAINERS}{index}", _container(spec["containers"][index], container)
    yield "/spec/securityContext", _pod_security(spec, made["securityContext"])
    yield "/spec/volumes", _with_missing(spec.get("volumes"), made["volumes"], "name")
    secrets = _with_missing(spec.get("imagePullSecrets"), made.get("imagePullSecrets", ()), "name")
    if secrets:
        yield "/spec/imagePullSecrets", secrets


def _container(own: Json, made: Json) -> Json:
    result = {**made, **{name: value for name, value in own.items() if value not in (None, {}, [])}}
    if own.get("image") in {None, "", _AUTO}:
        result["image"] = made["image"]
        # The API server gives an image without a tag this policy before it asks.
        if own.get("imagePullPolicy") in {None, _ALWAYS}:
            result["imagePullPolicy"] = made["imagePullPolicy"]
    result["env"] = _with_missing(own.get("env"), made["env"], "name")
    result["volumeMounts"] = _with_missing(own.get("volumeMounts"), made["volumeMounts"], "mountPath")
    taken = {one.get("name") for one in own.get("ports") or ()}
    missing = [one for one in made["ports"] if one["name"] not in taken]
    result["ports"] = _with_missing(own.get("ports"), missing, "containerPort")
    result["securityContext"] = _container_security(own.get("securityContext") or {}, made["securityContext"])
    return result


def _container_security(own: Json, made: Json) -> Json:
    """Return the settings of a container; ours that Kubernetes refuses beside the user's are left out."""
    result = {**made, **own}
    if result["runAsUser"] == 0 and "runAsNonRoot" not in own:
        result["runAsNonRoot"] = False
    if own.get("privileged") and "allowPrivilegeEscalation" not in own:
        del result["allowPrivilegeEscalation"]
    return result


def _pod_security(spec: Json, made: Json) -> Json:
    own = spec.get("securityContext") or {}
    result = {**made, **own}
    # Kubernetes refuses such settings for pods in the node's network.
    if not spec.get("hostNetwork"):
        return {**result, "sysctls": _with_missing(own.get("sysctls"), made["sysctls"], "name")}
    return {name: value for name, value in result.items() if name != "sysctls" or name in own}


def _with_missing(own: Any, made: Iterable[Json], key: str) -> list[Json]:
    """Return a pod's own items, and those of ours that it has none like."""
    held = list(own or ())
    taken = {one.get(key) for one in held}
    return held + [one for one in made if one[key] not in taken]
