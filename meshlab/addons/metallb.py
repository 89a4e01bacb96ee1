"""MetalLB, which gives Services of type LoadBalancer addresses that this computer reaches.

The addresses are from the network of the lab's machines. One node at a time answers for each (ARP, neighbour
discovery); from there on it is kube-proxy's. Only this way of announcing is set up: no BGP, no fast detection of dead
nodes.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from meshlab import images
from meshlab.api import Resource
from meshlab.errors import LabError
from meshlab.plan import LabPlan

NAME: Final = "metallb"
ABOUT: Final = "MetalLB, which gives Services of type LoadBalancer addresses"
NAMESPACE: Final = "metallb-system"
SPEAKER: Final = "metallb-speaker"

_GROUP: Final = "metallb.io"
_VERSION: Final = f"{_GROUP}/v1beta1"
_RBAC: Final = "rbac.authorization.k8s.io/v1"
_LABELS: Final = {"app": NAME}
_METRICS_PORT: Final = 7472
# MetalLB watches all of its kinds, used here or not.
_KINDS: Final = {
    "BFDProfile": ("v1beta1",),
    "BGPAdvertisement": ("v1beta1",),
    "BGPPeer": ("v1beta2", "v1beta1"),
    "Community": ("v1beta1",),
    "IPAddressPool": ("v1beta1",),
    "L2Advertisement": ("v1beta1",),
    "ServiceBGPStatus": ("v1beta1",),
    "ServiceL2Status": ("v1beta1",),
}
"""The version that is stored comes first."""


def resources(lab: LabPlan) -> Iterator[Resource]:
    """Yield the resources in the order in which they are to be applied.

    Raises:
        LabError: the lab is on hosts, of whose network it does not know which addresses are free.
    """
    if not lab.load_balancers:
        raise LabError(
            f"{NAME}: a lab on hosts has no addresses to give; name a Service's externalIPs, or use node ports"
        )
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    yield from (_definition(kind, versions) for kind, versions in _KINDS.items())
    yield _resource("v1", "ServiceAccount")
    yield from _permissions()
    yield _resource("apps/v1", "Deployment", spec=_workload(_controller()))
    yield _resource("apps/v1", "DaemonSet", name=SPEAKER, spec=_workload(_speaker(), SPEAKER, hostNetwork=True))
    yield _resource(_VERSION, "IPAddressPool", spec={"addresses": [str(network) for network in lab.load_balancers]})
    yield _resource(_VERSION, "L2Advertisement", spec={"ipAddressPools": [NAME], "interfaces": ["eth0"]})


def _resource(api_version: str, kind: str, *, name: str = NAME, **content: object) -> Resource:
    metadata: Resource = {"name": name, "labels": _LABELS}
    if not kind.startswith("ClusterRole"):
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _definition(kind: str, versions: Sequence[str]) -> Resource:
    """Return a definition that stores any object: what an object may have is checked by MetalLB."""
    singular = kind.lower()
    plural = (
        f"{singular}es" if singular.endswith("s") else f"{singular[:-1]}ies" if singular[-1] == "y" else f"{singular}s"
    )
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    served = [
        {
            "name": version,
            "served": True,
            "storage": version == versions[0],
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        }
        for version in versions
    ]
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": singular}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{_GROUP}", "labels": _LABELS},
        "spec": {"group": _GROUP, "scope": "Namespaced", "names": names, "versions": served},
    }


def _permissions() -> Iterator[Resource]:
    read = {"verbs": ["get", "list", "watch"]}
    cluster_wide = [
        {"apiGroups": [""], "resources": ["services", "namespaces", "nodes"], **read},
        {"apiGroups": [""], "resources": ["services/status"], "verbs": ["update"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], **read},
        {"apiGroups": [_GROUP], "resources": ["*"], "verbs": ["*"]},
    ]
    own = [{"apiGroups": [""], "resources": ["pods", "secrets", "configmaps"], **read}]
    subjects = [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
    for kind, rules in (("ClusterRole", cluster_wide), ("Role", own)):
        yield _resource(_RBAC, kind, rules=rules)
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME}
        yield _resource(_RBAC, f"{kind}Binding", roleRef=role, subjects=subjects)


def _controller() -> Resource:
    # Its webhook would need a certificate, and checks what only this module writes.
    arguments = ["--webhook-mode=disabled", "--disable-cert-rotation=true"]
    return _container("controller", *arguments, drop=["ALL"])


def _speaker() -> Resource:
    container = _container("speaker", drop=["ALL"], add=["NET_RAW"])
    container["env"].append({"name": "METALLB_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})
    return container


def _container(program: str, *arguments: str, **capabilities: list[str]) -> Resource:
    return {
        "name": program,
        "image": images.METALLB,
        "imagePullPolicy": "IfNotPresent",
        "command": [f"/usr/local/bin/{program}"],
        "args": [f"--port={_METRICS_PORT}", *arguments],
        "env": [
            {"name": "METALLB_NAMESPACE", "value": NAMESPACE},
            {"name": "METALLB_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "readinessProbe": {"httpGet": {"path": "/metrics", "port": _METRICS_PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": capabilities,
            "readOnlyRootFilesystem": True,
        },
    }


def _workload(container: Resource, name: str = NAME, **pod: object) -> Resource:
    labels = {"app": name}
    spec = {"serviceAccountName": NAME, "containers": [container], **pod}
    if name == SPEAKER:
        spec["tolerations"] = [{"operator": "Exists"}]
    return {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}
