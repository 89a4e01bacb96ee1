"""The control plane: etcd, API server, controller manager and scheduler, on a machine without a kubelet."""

from meshlab.components.credentials import FOLDER
from meshlab.machines.machine import Service
from meshlab.plan import API_PORT, CLUSTER_DOMAIN, LabPlan

_ETCD = "http://127.0.0.1:2379"
"""Plain: loopback of the machine. On namespaces nothing but the control plane runs there; on a host, whoever may run
programs on it may read and write the lab's state."""
_ETCD_PEER = "http://127.0.0.1:2380"
_ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"


def etcd(program: str) -> Service:
    """Return etcd. It does not flush to disk: a lab does not outlive its computer's crash anyway."""
    return Service(
        "etcd",
        (
            program,
            "--name=control",
            "--data-dir=/var/lib/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            f"--listen-peer-urls={_ETCD_PEER}",
            f"--initial-advertise-peer-urls={_ETCD_PEER}",
            f"--initial-cluster=control={_ETCD_PEER}",
            "--log-level=warn",
        ),
    )


def api_server(program: str, lab: LabPlan) -> Service:
    """Return the API server.

    Clients request tokens with the audience ``kubernetes.default.svc`` as well as with the issuer's own: it must take
    both, else it answers them 401.
    """
    return Service(
        "kube-apiserver",
        (
            program,
            f"--advertise-address={lab.control.address}",
            f"--secure-port={API_PORT}",
            f"--etcd-servers={_ETCD}",
            f"--service-cluster-ip-range={_ranges(lab)}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--anonymous-auth=false",
            "--allow-privileged=true",
            f"--client-ca-file={FOLDER}/ca.crt",
            f"--tls-cert-file={FOLDER}/apiserver.crt",
            f"--tls-private-key-file={FOLDER}/apiserver.key",
            f"--kubelet-client-certificate={FOLDER}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={FOLDER}/apiserver-kubelet-client.key",
            f"--kubelet-certificate-authority={FOLDER}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={FOLDER}/sa.pub",
            f"--service-account-signing-key-file={FOLDER}/sa.key",
            f"--api-audiences={_ISSUER},https://kubernetes.default.svc,kubernetes.default.svc",
            f"--requestheader-client-ca-file={FOLDER}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={FOLDER}/front-proxy-client.crt",
            f"--proxy-client-key-file={FOLDER}/front-proxy-client.key",
            "--enable-aggregator-routing=true",
            "--profiling=false",
        ),
    )


def controller_manager(program: str, lab: LabPlan) -> Service:
    """Return the controller manager. Pod ranges are given to nodes by the plan, not by it.

    With the default rate of 20 requests a second its forty controllers need five seconds to start.
    """
    config = "/etc/kubernetes/controller-manager.conf"
    return Service(
        "kube-controller-manager",
        (
            program,
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={FOLDER}/sa.key",
            f"--root-ca-file={FOLDER}/ca.crt",
            f"--cluster-signing-cert-file={FOLDER}/ca.crt",
            f"--cluster-signing-key-file={FOLDER}/ca.key",
            f"--client-ca-file={FOLDER}/ca.crt",
            f"--requestheader-client-ca-file={FOLDER}/front-proxy-ca.crt",
            "--allocate-node-cidrs=false",
            f"--service-cluster-ip-range={_ranges(lab)}",
            f"--cluster-name=culvert-{lab.name}",
        ),
    )


def scheduler(program: str) -> Service:
    """Return the scheduler."""
    config = "/etc/kubernetes/scheduler.conf"
    return Service(
        "kube-scheduler",
        (
            program,
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ),
    )


def _ranges(lab: LabPlan) -> str:
    return ",".join(str(network) for network in lab.services)
