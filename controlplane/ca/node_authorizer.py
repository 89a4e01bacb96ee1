"""Who may have which identity. Pure.

Everybody may have their own. A service account that is trusted as a node's agent may also have the identity of any
workload on **its own node**, and of no other: a stolen node yields that node's identities and not the mesh's. So

1.  the caller's token must be bound to a pod (its node is then a fact of the API server, not a claim),
2.  that pod must be the one that we know: same UID, same service account, scheduled on a node,
3.  a pod that has not ended must run on that node under the requested identity,
4.  the identity must be of our own trust domain.
"""

from collections.abc import Iterable, Set
from typing import Protocol

from controlplane.ca.errors import NoPodOnNode, Refused
from meshapi.errors import InvalidIdentity
from meshapi.identity import SpiffeId
from meshapi.resources.core import Pod
from meshkit.kube.objects import TokenOwner


class Pods(Protocol):
    """The pods of the cluster."""

    def pod(self, namespace: str, name: str) -> Pod | None:
        """Return one pod."""
        ...

    def pods_on(self, node: str) -> Iterable[Pod]:
        """Return the pods that are scheduled on a node."""
        ...


def authorize(
    caller: TokenOwner, impersonated: str, *, trust_domain: str, trusted: Set[tuple[str, str]], pods: Pods
) -> SpiffeId:
    """Return the identity that the caller gets; ``impersonated`` is empty when it requests its own.

    Raises:
        Refused: it may not have that identity.
        NoPodOnNode: it may not have it as far as is known now.
    """
    if not impersonated:
        return SpiffeId(trust_domain, caller.namespace, caller.service_account)
    who = f"{caller.namespace}/{caller.service_account}"
    if (caller.namespace, caller.service_account) not in trusted:
        raise Refused(f"{who} is not a trusted node account; see CA_TRUSTED_NODE_ACCOUNTS")
    try:
        identity = SpiffeId.parse(impersonated)
    except InvalidIdentity as error:
        raise Refused(str(error)) from error
    if identity.trust_domain != trust_domain:
        raise Refused(f"{identity} is not of the trust domain {trust_domain}")
    node = _node_of(caller, pods)
    wanted = (identity.namespace, identity.service_account)
    running = (
        (pod.metadata.namespace, pod.spec.service_account_name) for pod in pods.pods_on(node) if not pod.is_terminal
    )
    if wanted not in running:
        raise NoPodOnNode(f"no running pod of {identity} is known on node {node}, where {who} runs")
    return identity


def _node_of(caller: TokenOwner, pods: Pods) -> str:
    if not caller.pod or not caller.pod_uid:
        raise Refused("the caller's token is not bound to a pod; mount a projected token")
    pod = pods.pod(caller.namespace, caller.pod)
    name = f"{caller.namespace}/{caller.pod}"
    if pod is None:
        raise NoPodOnNode(f"the caller's pod {name} is not known")
    if pod.metadata.uid != caller.pod_uid:
        raise NoPodOnNode(f"the caller's pod {name} is another one than its token is bound to")
    if pod.spec.service_account_name != caller.service_account or not pod.spec.node_name or pod.is_terminal:
        raise Refused(f"the caller's pod {name} does not run under {caller.service_account} on a node")
    return pod.spec.node_name
