"""A node: containerd, the pod network, kubelet and kube-proxy, at the paths where DaemonSets expect them."""

import json

from meshapi import names
from meshlab import images
from meshlab.components.credentials import FOLDER
from meshlab.machines.machine import File, Service
from meshlab.plan import CLUSTER_DOMAIN, REGION, LabPlan, MachinePlan

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_PLUGINS = ("host-local", "loopback", "portmap", "ptp")
CNI_CONFIG = f"{names.CNI_NET_DIR}/10-culvert-lab.conflist"
_KUBELET_CONFIG = "/var/lib/kubelet/config.json"
_KUBE_PROXY_CONFIG = "/etc/kubernetes/kube-proxy.json"


def files(lab: LabPlan, node: MachinePlan, *, lower_oom_score: bool) -> list[File]:
    """Return a node's configuration.

    Args:
        lower_oom_score: whether processes of this computer may lower their OOM score (``CAP_SYS_RESOURCE``).
    """
    return [
        File("/etc/containerd/config.toml", _containerd_config(lower_oom_score=lower_oom_score)),
        File(CNI_CONFIG, _json(_pod_network(node))),
        File(_KUBELET_CONFIG, _json(_kubelet_config(lab))),
        File(_KUBE_PROXY_CONFIG, _json(_kube_proxy_config(lab, node))),
        File("/etc/hosts", _hosts(lab)),
        File("/etc/hostname", f"{node.name}\n".encode()),
    ]


def containerd(program: str) -> Service:
    """Return the container runtime."""
    return Service("containerd", (program, "--config=/etc/containerd/config.toml"))


def kubelet(program: str, node: MachinePlan) -> Service:
    """Return the kubelet. Its labels are the ones that a node may give itself."""
    labels = {names.REGION_LABEL: REGION, names.ZONE_LABEL: node.zone}
    return Service(
        "kubelet",
        (
            program,
            f"--config={_KUBELET_CONFIG}",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            f"--hostname-override={node.name}",
            f"--node-ip={','.join(str(address) for address in node.addresses)}",
            f"--node-labels={','.join(f'{name}={value}' for name, value in labels.items())}",
        ),
    )


def kube_proxy(program: str) -> Service:
    """Return kube-proxy."""
    return Service("kube-proxy", (program, f"--config={_KUBE_PROXY_CONFIG}"))


def _containerd_config(*, lower_oom_score: bool) -> bytes:
    """Without the right to lower an OOM score no sandbox starts, unless containerd is configured not to try."""
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = {"false" if lower_oom_score else "true"}

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{names.CNI_BIN_DIR}"
  conf_dir = "{names.CNI_NET_DIR}"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
""".encode()


def _pod_network(node: MachinePlan) -> dict[str, object]:
    everywhere = {4: "0.0.0.0/0", 6: "::/0"}
    return {
        "cniVersion": "1.0.0",
        "name": "culvert-lab",
        "plugins": [
            {
                "type": "ptp",
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": str(network)}] for network in node.pods],
                    "routes": [{"dst": everywhere[network.version]} for network in node.pods],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet_config(lab: LabPlan) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{FOLDER}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{FOLDER}/kubelet.crt",
        "tlsPrivateKeyFile": f"{FOLDER}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [str(address) for address in lab.dns],
        "clusterDomain": CLUSTER_DOMAIN,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # The disk and memory are this computer's: a full disk is its owner's matter, and images are loaded by hand.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "5s",
        # Changed config maps and Secrets reach the pods within seconds, not within a minute and a half.
        "syncFrequency": "5s",
        "shutdownGracePeriod": "0s",
    }


def _kube_proxy_config(lab: LabPlan, node: MachinePlan) -> dict[str, object]:
    """Return the configuration of kube-proxy.

    ``clusterCIDR`` makes it hide the source of what comes from outside the pods' ranges. It gathers changes for 100 ms
    instead of a second (there is no flag for that): in a small cluster it costs nothing and saves the wait.
    """
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.conf"},
        "hostnameOverride": node.name,
        "mode": "nftables",
        "nftables": {"minSyncPeriod": "100ms"},
        "clusterCIDR": ",".join(str(network) for network in lab.pods),
        "conntrack": {"maxPerCore": 0},
        "nodePortAddresses": ["primary"],
    }


def _hosts(lab: LabPlan) -> bytes:
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{address} {machine.name}" for machine in lab.machines for address in machine.addresses]
    return ("\n".join(lines) + "\n").encode()


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"
