"""The one door to the Kubernetes API: plain JSON objects, informers, a small error tree."""

from meshkit.kube.client import Client, Json, PatchType
from meshkit.kube.config import Access, explicit, from_kubeconfig, in_cluster, load
from meshkit.kube.errors import ApiError, ConfigError, Conflict, Forbidden, Gone, KubeError, NotFound, Unreachable
from meshkit.kube.forward import Port, forwarded
from meshkit.kube.informer import Informer, Key, Selection
from meshkit.kube.kinds import Kind

__all__ = [
    "Access",
    "ApiError",
    "Client",
    "ConfigError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Informer",
    "Json",
    "Key",
    "Kind",
    "KubeError",
    "NotFound",
    "PatchType",
    "Port",
    "Selection",
    "Unreachable",
    "explicit",
    "forwarded",
    "from_kubeconfig",
    "in_cluster",
    "load",
]
