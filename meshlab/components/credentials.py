"""Who is who in a lab: every key, certificate and kubeconfig, each made once."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from meshlab import pki
from meshlab.components import kubeconfig
from meshlab.machines.machine import File
from meshlab.pki import Authority, Pair, Use
from meshlab.plan import CLUSTER_DOMAIN, LabPlan, MachinePlan

FOLDER = "/etc/kubernetes/pki"
_SECRET = 0o600


@dataclass(frozen=True, slots=True)
class NodeCredentials:
    """What a kubelet serves with and calls with."""

    server: Pair
    client: Pair


@dataclass(frozen=True, slots=True)
class Credentials:
    """All of a lab's."""

    authority: Authority
    front_proxy_authority: Authority
    api_server: Pair
    api_server_to_kubelet: Pair
    front_proxy: Pair
    token_private: bytes
    token_public: bytes
    controller_manager: Pair
    scheduler: Pair
    kube_proxy: Pair
    admin: Pair
    nodes: Mapping[str, NodeCredentials]


def issue(lab: LabPlan, *, now: datetime.datetime) -> Credentials:
    """Make every credential of a new lab."""
    authority = pki.authority("kubernetes", now=now)
    front_proxy_authority = pki.authority("front-proxy", now=now)
    token_private, token_public = pki.token_key()

    def client(name: str, organization: str = "") -> Pair:
        return authority.issue(name, use=Use.CLIENT, organization=organization)

    return Credentials(
        authority=authority,
        front_proxy_authority=front_proxy_authority,
        api_server=authority.issue("kube-apiserver", use=Use.SERVER, names=_api_server_names(lab)),
        api_server_to_kubelet=client("kube-apiserver-kubelet-client", pki.MASTERS),
        front_proxy=front_proxy_authority.issue("front-proxy-client", use=Use.CLIENT),
        token_private=token_private,
        token_public=token_public,
        controller_manager=client("system:kube-controller-manager"),
        scheduler=client("system:kube-scheduler"),
        kube_proxy=client("system:kube-proxy"),
        admin=client("culvert-lab-admin", pki.MASTERS),
        nodes={node.name: _node(authority, node) for node in lab.nodes},
    )


def control_files(lab: LabPlan, credentials: Credentials) -> list[File]:
    """Return the files of the control plane's machine."""
    return [
        *_pair_files("apiserver", credentials.api_server),
        *_pair_files("apiserver-kubelet-client", credentials.api_server_to_kubelet),
        *_pair_files("front-proxy-client", credentials.front_proxy),
        *_pair_files("ca", credentials.authority.pair),
        File(f"{FOLDER}/front-proxy-ca.crt", credentials.front_proxy_authority.pair.certificate),
        File(f"{FOLDER}/sa.key", credentials.token_private, _SECRET),
        File(f"{FOLDER}/sa.pub", credentials.token_public),
        _kubeconfig_file(lab, credentials, "controller-manager", credentials.controller_manager),
        _kubeconfig_file(lab, credentials, "scheduler", credentials.scheduler),
    ]


def node_files(lab: LabPlan, credentials: Credentials, node: str) -> list[File]:
    """Return the files of a node."""
    own = credentials.nodes[node]
    return [
        File(f"{FOLDER}/ca.crt", credentials.authority.pair.certificate),
        *_pair_files("kubelet", own.server),
        _kubeconfig_file(lab, credentials, "kubelet", own.client),
        _kubeconfig_file(lab, credentials, "kube-proxy", credentials.kube_proxy),
    ]


def admin_kubeconfig(lab: LabPlan, credentials: Credentials) -> bytes:
    """Return the kubeconfig of the lab's user."""
    return kubeconfig.render(
        server=lab.server,
        ca=credentials.authority.pair.certificate,
        user="admin",
        pair=credentials.admin,
        cluster=f"culvert-{lab.name}",
    )


def _api_server_names(lab: LabPlan) -> list[pki.Name]:
    service = "kubernetes.default.svc"
    return [
        "kubernetes",
        "kubernetes.default",
        service,
        f"{service}.{CLUSTER_DOMAIN}",
        "localhost",
        *lab.api_service,
        *lab.control.addresses,
    ]


def _node(authority: Authority, node: MachinePlan) -> NodeCredentials:
    user = f"system:node:{node.name}"
    return NodeCredentials(
        server=authority.issue(user, use=Use.SERVER, organization=pki.NODES, names=[node.name, *node.addresses]),
        client=authority.issue(user, use=Use.CLIENT, organization=pki.NODES),
    )


def _pair_files(name: str, pair: Pair) -> list[File]:
    return [File(f"{FOLDER}/{name}.crt", pair.certificate), File(f"{FOLDER}/{name}.key", pair.key, _SECRET)]


def _kubeconfig_file(lab: LabPlan, credentials: Credentials, name: str, pair: Pair) -> File:
    content = kubeconfig.render(
        server=lab.server, ca=credentials.authority.pair.certificate, user=name, pair=pair, cluster=lab.name
    )
    return File(f"/etc/kubernetes/{name}.conf", content, _SECRET)
