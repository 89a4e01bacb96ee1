"""The chart's permissions, capabilities and mounts; and that it agrees with the names that the code uses."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.settings import Settings
from meshapi import names
from meshkit.kube import kinds
from nodeagent.settings import NodeAgentSettings
from tests.support.chart import CHART, Objects, pod, run, template
from ztunnel.settings import ZtunnelSettings


def environment(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    container = pod(objects, kind, name)["containers"][0]
    config_maps = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
    found = {name: value for one in config_maps for name, value in objects["ConfigMap", one]["data"].items()}
    return found | {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_chart_has_no_faults(helm: Path) -> None:
    done = run(helm, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_nothing_is_privileged_and_capabilities_are_few(objects: Objects) -> None:
    found = {}
    for (kind, name), item in objects.items():
        if kind not in ("Deployment", "DaemonSet"):
            continue
        spec = item["spec"]["template"]["spec"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert not context.get("privileged")
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
            found[name] = set(context["capabilities"].get("add", []))
    assert found == {
        "istiod": set(),
        "ztunnel": {"NET_ADMIN", "SYS_ADMIN", "NET_RAW"},
        names.NODE_AGENT_DAEMON_SET: {"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE"},
    }
    assert pod(objects, "Deployment", "istiod")["securityContext"]["runAsNonRoot"] is True


def test_only_the_node_agent_is_free_of_apparmor(helm: Path, objects: Objects) -> None:
    """The runtime's profile keeps it from finding pods' namespaces under /proc."""
    unconfined = {
        name
        for (kind, name), item in objects.items()
        if kind in ("Deployment", "DaemonSet")
        for container in item["spec"]["template"]["spec"]["containers"]
        if container["securityContext"].get("appArmorProfile") == {"type": "Unconfined"}
    }
    assert unconfined == {names.NODE_AGENT_DAEMON_SET}
    older = run(helm, "template", "culvert", str(CHART), "--kube-version=1.29").stdout
    assert "container.apparmor.security.beta.kubernetes.io/install-cni: unconfined" in older
    assert "appArmorProfile" not in older


def test_capture_is_as_without_the_chart(objects: Objects) -> None:
    given = environment(objects, "DaemonSet", names.NODE_AGENT_DAEMON_SET)
    fields = NodeAgentSettings.model_fields
    assert given["CAPTURE_BACKEND"] == fields["capture_backend"].default
    assert given["AMBIENT_DNS_CAPTURE"] == str(fields["ambient_dns_capture"].default).lower()
    assert given["EXCLUDE_NAMESPACES"] == ",".join(fields["exclude_namespaces"].default)


def test_only_the_node_agent_shares_the_nodes_network_and_processes(objects: Objects) -> None:
    agent = pod(objects, "DaemonSet", names.NODE_AGENT_DAEMON_SET)
    assert (agent["hostNetwork"], agent["hostPID"], agent["dnsPolicy"]) == (True, True, "ClusterFirstWithHostNet")
    for spec in (pod(objects, "DaemonSet", "ztunnel"), pod(objects, "Deployment", "istiod")):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_folders_of_the_node_that_are_mounted(objects: Objects) -> None:
    def paths(name: str) -> set[str]:
        volumes = pod(objects, "DaemonSet", name)["volumes"]
        return {volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume}

    sockets = str(Path(names.ZDS_SOCKET).parent)
    assert paths("ztunnel") == {sockets}
    cni_socket = str(Path(names.CNI_EVENT_SOCKET).parent)
    assert paths(names.NODE_AGENT_DAEMON_SET) == {
        sockets, cni_socket, names.CNI_BIN_DIR, names.CNI_NET_DIR, names.XTABLES_LOCK,
    }  # fmt: skip
    assert not [one for one in pod(objects, "Deployment", "istiod").get("volumes", []) if "hostPath" in one]


@pytest.mark.parametrize("name", ["ztunnel", names.NODE_AGENT_DAEMON_SET])
def test_credentials_are_where_the_code_looks(objects: Objects, name: str) -> None:
    spec = pod(objects, "DaemonSet", name)
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    token = volumes["istio-token"]["projected"]["sources"][0]["serviceAccountToken"]
    assert f"{mounts['istio-token']}/{token['path']}" == names.TOKEN_PATH
    assert (token["audience"], token["expirationSeconds"]) == (names.TOKEN_AUDIENCE, 43200)
    assert volumes["istio-ca-root-cert"]["configMap"]["name"] == names.ROOT_CERT_CONFIGMAP
    assert f"{mounts['istio-ca-root-cert']}/{names.ROOT_CERT_KEY}" == names.ROOT_CERT_PATH


def test_the_node_agent_finds_its_mounts(objects: Objects) -> None:
    spec = pod(objects, "DaemonSet", names.NODE_AGENT_DAEMON_SET)
    settings = NodeAgentSettings.model_validate({"node_name": "n"})
    mounted = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    wanted = (settings.cni_bin_dir, settings.cni_net_dir, settings.zds_socket.parent, settings.cni_socket.parent)
    assert {str(path) for path in wanted} <= mounted
    assert str(settings.crl_path.parent) in mounted
    lists = next(volume["configMap"] for volume in spec["volumes"] if volume["name"] == names.CRL_CONFIGMAP)
    assert lists == {"name": names.CRL_CONFIGMAP, "optional": True}
    assert settings.crl_path.name == names.CRL_KEY


def test_the_snapshot_is_kept_in_the_folder_that_all_ztunnels_of_a_node_share(objects: Objects) -> None:
    spec = pod(objects, "DaemonSet", "ztunnel")
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    path = Path(str(environment(objects, "DaemonSet", "ztunnel")["SNAPSHOT_PATH"]))
    assert str(path.parent) == mounts["ztunnel-sockets"]


def test_the_access_log_is_offered_where_culvert_trace_looks_for_it(objects: Objects) -> None:
    assert environment(objects, "DaemonSet", "ztunnel")["ACCESS_LOG_SOCKET"] == names.ACCESS_LOG_SOCKET
    for name in ("ztunnel", "istio-cni-node"):
        mounts = {mount["mountPath"] for mount in pod(objects, "DaemonSet", name)["containers"][0]["volumeMounts"]}
        assert str(Path(names.ACCESS_LOG_SOCKET).parent) in mounts


def test_every_variable_is_a_setting(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, name, settings in (
        ("Deployment", "istiod", Settings),
        ("DaemonSet", "ztunnel", ZtunnelSettings),
        ("DaemonSet", names.NODE_AGENT_DAEMON_SET, NodeAgentSettings),
    ):
        given = environment(objects, kind, name)
        known = {field.upper() for field in settings.model_fields}
        # Of the last two, one is for Kiali and one is the C library's.
        assert set(given) - known <= {"POD_NAME", "NODE_NAME", "PILOT_ENABLE_AMBIENT", "MALLOC_ARENA_MAX"}, name
        for variable, value in given.items():
            monkeypatch.setenv(variable, value if isinstance(value, str) else "10.0.0.1")
        settings.from_command_line([])


def test_kiali_finds_the_control_plane_and_knows_that_the_mesh_is_ambient(objects: Objects) -> None:
    for kind in ("Deployment", "Service"):
        assert objects[kind, "istiod"]["metadata"]["labels"]["istio.io/rev"] == "default"
    assert environment(objects, "Deployment", "istiod")["PILOT_ENABLE_AMBIENT"] == "true"


def test_another_namespace_is_followed_everywhere(helm: Path) -> None:
    objects = template(helm, namespace="mesh")
    assert environment(objects, "DaemonSet", "ztunnel")["XDS_ADDRESS"] == "istiod.mesh.svc:15012"
    assert environment(objects, "DaemonSet", names.NODE_AGENT_DAEMON_SET)["CA_ADDRESS"] == "istiod.mesh.svc:15012"
    trusted = environment(objects, "Deployment", "istiod")["CA_TRUSTED_NODE_ACCOUNTS"]
    assert trusted == "mesh/ztunnel,mesh/istio-cni"
    assert "istio-system" not in yaml.safe_dump(list(objects.values()))


def test_several_replicas_are_spread_and_not_taken_away_together(helm: Path, objects: Objects) -> None:
    budget = ("PodDisruptionBudget", "istiod")
    assert budget not in objects, "a single replica must not keep its node from being drained"
    assert "affinity" not in pod(objects, "Deployment", "istiod")
    several = template(helm, "controlPlane.replicas=2")
    deployment = several["Deployment", "istiod"]["spec"]
    assert deployment["replicas"] == 2
    labels = deployment["template"]["metadata"]["labels"]
    assert several[budget]["spec"]["maxUnavailable"] == 1
    (term,) = deployment["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    for selector in (several[budget]["spec"]["selector"], term["podAffinityTerm"]["labelSelector"]):
        assert selector["matchLabels"].items() <= labels.items()


def test_istios_tools_find_what_they_look_for(objects: Objects) -> None:
    service = objects["Service", names.CONTROL_PLANE_SERVICE]["spec"]
    ports = {port["name"]: port["port"] for port in service["ports"]}
    assert ports == {
        "grpc-xds": names.CONTROL_PLANE_XDS_PORT,
        "http-monitoring": names.CONTROL_PLANE_METRICS_PORT,
        "https-webhook": 443,
    }
    labels = objects["Deployment", "istiod"]["spec"]["template"]["metadata"]["labels"]
    assert (labels["app"], labels["istio"]) == ("istiod", "pilot")
    assert service["selector"].items() <= labels.items()
    template = objects["DaemonSet", "ztunnel"]["spec"]["template"]["metadata"]
    assert template["labels"]["app"] == "ztunnel"
    assert template["annotations"]["prometheus.io/port"] == str(names.METRICS_PORT)
    mesh = yaml.safe_load(objects["ConfigMap", names.MESH_CONFIGMAP]["data"][names.MESH_CONFIG_KEY])
    assert mesh == {"trustDomain": names.DEFAULT_TRUST_DOMAIN, "rootNamespace": names.DEFAULT_NAMESPACE}


def test_every_field_of_the_mesh_configuration_can_be_set(helm: Path) -> None:
    given = {
        "meshConfig.discoverySelectors[0].matchLabels.mesh": "on",
        "meshConfig.accessLogFormat": "%START_TIME% {{ }}",
        "meshConfig.extensionProviders[0].name": "x",
        "meshConfig.rootNamespace": "root",
    }
    rendered = template(helm, *(f"{name}={value}" for name, value in given.items()))
    mesh = yaml.safe_load(rendered["ConfigMap", names.MESH_CONFIGMAP]["data"][names.MESH_CONFIG_KEY])
    assert mesh == {
        "trustDomain": names.DEFAULT_TRUST_DOMAIN,
        "rootNamespace": "root",
        "discoverySelectors": [{"matchLabels": {"mesh": "on"}}],
        "accessLogFormat": "%START_TIME% {{ }}",
        "extensionProviders": [{"name": "x"}],
    }


def test_our_own_pods_are_never_enrolled(objects: Objects) -> None:
    for (kind, _), item in objects.items():
        if kind in ("Deployment", "DaemonSet"):
            labels = item["spec"]["template"]["metadata"]["labels"]
            assert labels[names.DATAPLANE_MODE_LABEL] == names.DATAPLANE_MODE_NONE


def test_the_collector_of_the_access_log_is_passed_to_ztunnel(helm: Path, objects: Objects) -> None:
    assert not [name for name in environment(objects, "DaemonSet", "ztunnel") if name.startswith("OTEL_")]
    given = "endpoint=https://collector.observe:4317,caConfigMap=roots,headersSecret=tenant,resourceAttributes=a=b"
    configured = template(helm, *(f"ztunnel.accessLogOtlp.{value}" for value in given.split(",")))
    spec = pod(configured, "DaemonSet", "ztunnel")
    variables = environment(configured, "DaemonSet", "ztunnel")
    passed = {name: value for name, value in variables.items() if name.startswith("OTEL_")}
    headers = passed.pop("OTEL_EXPORTER_OTLP_LOGS_HEADERS")
    assert headers == {"secretKeyRef": {"name": "tenant", "key": "headers"}}
    settings = ZtunnelSettings.model_validate({"node_name": "node1"} | passed)
    assert (settings.otlp_endpoint, settings.otlp_resource_attributes) == ("https://collector.observe:4317", "a=b")
    [mount] = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "otlp-ca"]
    assert Path(mount["mountPath"]) / "ca.crt" == settings.otlp_certificate
    [volume] = [one for one in spec["volumes"] if one["name"] == "otlp-ca"]
    assert volume["configMap"] == {"name": "roots"}


def test_further_settings_reach_each_component(helm: Path) -> None:
    given = {"controlPlane": "PUSH_TIME", "nodeAgent": "CERTIFICATE_GRACE", "ztunnel": "MAX_BANDWIDTH_PER_WORKLOAD"}
    objects = template(helm, *(f"{component}.env.{name}=a b" for component, name in given.items()))
    workloads = [("Deployment", "istiod"), ("DaemonSet", names.NODE_AGENT_DAEMON_SET), ("DaemonSet", "ztunnel")]
    for (kind, name), variable in zip(workloads, given.values(), strict=True):
        assert environment(objects, kind, name)[variable] == "a b"


def test_labels_reach_the_pods_of_each_component_and_not_their_selectors(helm: Path) -> None:
    workloads = {"controlPlane": ("Deployment", "istiod"), "nodeAgent": ("DaemonSet", names.NODE_AGENT_DAEMON_SET),
                 "ztunnel": ("DaemonSet", "ztunnel")}  # fmt: skip
    objects = template(helm, *(f"{component}.podLabels.team=net" for component in workloads))
    for key in workloads.values():
        spec = objects[key]["spec"]
        assert spec["template"]["metadata"]["labels"]["team"] == "net"
        assert "team" not in spec["selector"]["matchLabels"]


def test_ztunnel_knows_its_own_pods_place_in_the_mesh(helm: Path) -> None:
    objects = template(helm, r"ztunnel.podLabels.networking\.istio\.io/tunnel=http")
    labels = objects["DaemonSet", "ztunnel"]["spec"]["template"]["metadata"]["labels"]
    assert labels[names.TUNNEL_LABEL] == names.TUNNEL_LABEL_HTTP
    given = environment(objects, "DaemonSet", "ztunnel")
    assert given["POD_TUNNEL"] == {"fieldRef": {"fieldPath": f"metadata.labels['{names.TUNNEL_LABEL}']"}}
    assert given["SERVICE_ACCOUNT"] == {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}


def test_without_the_plugin_the_nodes_folders_are_not_mounted(helm: Path) -> None:
    objects = template(helm, "nodeAgent.cni.enabled=false")
    spec = pod(objects, "DaemonSet", names.NODE_AGENT_DAEMON_SET)
    mounted = {volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume}
    assert mounted == {"/var/run/ztunnel", names.XTABLES_LOCK}
    assert "CNI_PLUGIN" not in environment(objects, "DaemonSet", names.NODE_AGENT_DAEMON_SET)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("ztunel.accessLog=text", "ztunel"),
        ("nodeAgent.cni.enable=true", "enable"),
        ("ztunnel.accessLog=verbose", "accessLog"),
        ("ztunnel.accessLogOtlp.endpoint=http://collector:4318/v1/logs", "endpoint"),
        ("controlPlane.replicas=0", "replicas"),
        ("ztunnel.podLabels.app=other", "app"),
        (r"nodeAgent.podLabels.networking\.istio\.io/tunnel=http", "networking.istio.io/tunnel"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Path, given: str, named: str) -> None:
    done = run(helm, "template", "culvert", str(CHART), "--kube-version=1.34", f"--set={given}")
    assert done.returncode != 0
    assert named in done.stderr


def test_every_value_is_described() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def check(described: dict[str, Any], value: Any, path: str) -> None:
        assert described.get("description") or not path, path
        properties = described.get("properties")
        if properties is None or not isinstance(value, dict):
            return
        # Every field of Istio's mesh configuration may be set; the control plane reports those without an effect.
        assert described["additionalProperties"] is (path == ".meshConfig"), path
        for key, inner in value.items():
            assert key in properties, f"{path}.{key}"
            check(properties[key], inner, f"{path}.{key}")

    check(schema, values, "")


def test_the_chart_has_the_packages_version() -> None:
    project = tomllib.loads((CHART.parent.parent.parent / "pyproject.toml").read_text())["project"]
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == project["version"]


@pytest.mark.parametrize(("channel", "alone"), [("standard", False), ("experimental", True), ("none", False)])
def test_the_gateway_apis_definitions_follow_the_channel_and_outlive_the_release(
    helm: Path, channel: str, alone: bool
) -> None:
    objects = template(helm, f"gatewayAPI.channel={channel}")
    found = {name: one for (kind, name), one in objects.items() if kind == "CustomResourceDefinition"}
    assert (f"gateways.{kinds.GATEWAY.group}" in found) == (channel != "none")
    assert ("xbackendtrafficpolicies.gateway.networking.x-k8s.io" in found) == alone
    for one in found.values():
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert one["metadata"]["annotations"]["gateway.networking.k8s.io/channel"] == channel


def test_waypoints_have_the_tag_of_the_other_image_unless_told_otherwise(helm: Path) -> None:
    def image(*sets: str) -> object:
        return environment(template(helm, *sets), "Deployment", "istiod")["WAYPOINT_IMAGE"]

    assert image("image.tag=v7") == "localhost/culvert/waypoint:v7"
    assert image("waypoint.image.repository=r/w", "waypoint.image.tag=v8") == "r/w:v8"
