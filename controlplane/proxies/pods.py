"""The pods of a waypoint or a gateway. Pure."""

from typing import Final

from controlplane.gateways.classes import EDGE, ProxyClass
from controlplane.inputs.mesh import MeshContext
from controlplane.proxies.defaults import ProxyDefaults
from meshapi import names
from meshapi.resources.gateway import Gateway
from meshkit.kube import Json, Kind, kinds

CONTAINER: Final = "istio-proxy"
GRACE_VARIABLE: Final = "TERMINATION_GRACE_PERIOD_SECONDS"
_USER: Final = 1337
_LOG_LEVEL: Final = "sidecar.istio.io/logLevel"
_COMPONENT_LOG_LEVEL: Final = "sidecar.istio.io/componentLogLevel"
_AGENT_LOG_LEVEL: Final = "sidecar.istio.io/agentLogLevel"
_IMAGE: Final = "sidecar.istio.io/proxyImage"
_TOKEN_LIFE_S: Final = 43200
_LOW_PORTS: Final[Json] = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}
"""A gateway listens on the ports of its listeners, and runs without any capability."""


def template(
    gateway: Gateway,
    kind: ProxyClass,
    mesh: MeshContext,
    defaults: ProxyDefaults,
    *,
    name: str,
    account: str,
    labels: dict[str, str],
    annotations: dict[str, str],
    owner: Kind = kinds.DEPLOYMENT,
) -> Json:
    """Return the template of the pods.

    Args:
        gateway: the Gateway.
        kind: its class.
        mesh: the mesh.
        defaults: of the installation.
        name: of the Deployment, or of another owner.
        account: the service account.
        labels: of everything that belongs to the Gateway.
        annotations: of everything that belongs to the Gateway.
        owner: kind of what the pods belong to.
    """
    spec: Json = {
        **defaults.pod,
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": defaults.grace_period_s,
        "securityContext": {
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            **(_LOW_PORTS if kind is EDGE else {}),
        },
        "containers": [_container(gateway, kind, mesh, defaults, (owner, name))],
        "volumes": _volumes(),
    }
    if defaults.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in defaults.pull_secrets]
    return {"metadata": {"labels": _labels(name, labels), "annotations": _annotations(annotations)}, "spec": spec}


def _labels(name: str, labels: dict[str, str]) -> dict[str, str]:
    return {
        names.INJECT_LABEL: "false",
        names.DATAPLANE_MODE_LABEL: names.DATAPLANE_MODE_NONE,
        names.CANONICAL_NAME_LABEL: name,
        names.CANONICAL_REVISION_LABEL: "latest",
        **labels,
    }


def _annotations(annotations: dict[str, str]) -> dict[str, str]:
    return {
        **annotations,
        "istio.io/rev": "default",
        "prometheus.io/path": "/stats/prometheus",
        "prometheus.io/port": str(names.METRICS_PORT),
        "prometheus.io/scrape": "true",
    }


def _container(
    gateway: Gateway, kind: ProxyClass, mesh: MeshContext, defaults: ProxyDefaults, owner: tuple[Kind, str]
) -> Json:
    notes = gateway.metadata.annotations
    probe = {"httpGet": {"path": "/healthz/ready", "port": names.READINESS_PORT, "scheme": "HTTP"}, "timeoutSeconds": 3}
    return {
        "name": CONTAINER,
        "image": notes.get(_IMAGE, "") or defaults.image,
        "imagePullPolicy": defaults.pull_policy,
        "ports": [
            _port("metrics", names.METRICS_PORT),
            _port("status-port", names.READINESS_PORT),
            _port("http-envoy-prom", names.ENVOY_PROMETHEUS_PORT),
        ],
        "env": _environment(gateway, kind, mesh, defaults, owner),
        "resources": defaults.resources,
        "startupProbe": {**probe, "failureThreshold": 120, "periodSeconds": 1, "successThreshold": 1},
        "readinessProbe": {**probe, "failureThreshold": 4, "periodSeconds": 15, "successThreshold": 1},
        "securityContext": {
            "privileged": False,
            "runAsGroup": _USER,
            "runAsUser": _USER,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": volume, "mountPath": path}
            for volume, path in (
                ("workload-socket", "/var/run/secrets/workload-spiffe-uds"),
                ("istiod-ca-cert", "/var/run/secrets/istio"),
                (names.CRL_CONFIGMAP, names.CRL_PATH.rpartition("/")[0]),
                ("istio-data", "/var/lib/istio/data"),
                ("istio-envoy", "/etc/istio/proxy"),
                ("istio-token", names.TOKEN_PATH.rpartition("/")[0]),
                ("istio-podinfo", f"/{names.POD_INFO_DIR.removeprefix('./')}"),
            )
        ],
    }


def _environment(
    gateway: Gateway, kind: ProxyClass, mesh: MeshContext, defaults: ProxyDefaults, owner: tuple[Kind, str]
) -> list[Json]:
    notes, namespace = gateway.metadata.annotations, gateway.metadata.namespace
    of, name = owner
    fields = {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "INSTANCE_IP": "status.podIP",
        "SERVICE_ACCOUNT": "spec.serviceAccountName",
        "HOST_IP": "status.hostIP",
        "ISTIO_META_NODE_NAME": "spec.nodeName",
    }
    values = {
        "NODE_TYPE": kind.node_type,
        "XDS_ADDRESS": defaults.xds_address,
        "CA_ADDR": defaults.xds_address,
        "TRUST_DOMAIN": mesh.trust_domain,
        "CLUSTER_DOMAIN": defaults.cluster_domain,
        GRACE_VARIABLE: str(defaults.grace_period_s),
        "LOG_LEVEL": notes.get(_AGENT_LOG_LEVEL, "") or defaults.log_level,
        "LOG_FORMAT": defaults.log_format,
        "PROXY_LOG_LEVEL": notes.get(_LOG_LEVEL, "") or "warning",
        "PROXY_COMPONENT_LOG_LEVEL": notes.get(_COMPONENT_LOG_LEVEL, "") or "misc:error",
        "ISTIO_META_CLUSTER_ID": defaults.cluster_id,
        "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
        "ISTIO_META_WORKLOAD_NAME": name,
        "ISTIO_META_OWNER": f"kubernetes://apis/{of.api_version}/namespaces/{namespace}/{of.plural}/{name}",
        "ISTIO_META_MESH_ID": mesh.trust_domain,
    }
    network = gateway.metadata.labels.get(names.NETWORK_LABEL, "") or mesh.network
    if network:
        values["ISTIO_META_NETWORK"] = network
    limit = {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}
    return [
        *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()),
        {"name": "ISTIO_CPU_LIMIT", "valueFrom": limit},
        *({"name": key, "value": value} for key, value in values.items()),
    ]


def _volumes() -> list[Json]:
    token = {"audience": names.TOKEN_AUDIENCE, "expirationSeconds": _TOKEN_LIFE_S, "path": "istio-token"}
    projected = [{"path": what, "fieldRef": {"fieldPath": f"metadata.{what}"}} for what in ("labels", "annotations")]
    return [
        {"name": "workload-socket", "emptyDir": {}},
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-data", "emptyDir": {}},
        {"name": "istio-podinfo", "downwardAPI": {"items": projected}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": names.ROOT_CERT_CONFIGMAP}},
        {"name": names.CRL_CONFIGMAP, "configMap": {"name": names.CRL_CONFIGMAP, "optional": True}},
    ]


def _port(name: str, number: int) -> Json:
    return {"containerPort": number, "name": name, "protocol": "TCP"}
