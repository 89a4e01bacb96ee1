"""The incremental model: takes changed objects in, gives changed resources out.

Two steps. ``put_…`` files an object and marks what depends on it; ``flush`` recomputes what is marked, each thing
once, and returns the resources whose bytes have really changed. Every computed thing depends on the objects held and
on nothing else, so any order of events leads to the same resources as a computation from scratch (property test).

=====================  =========================================================================================
changed                marks
=====================  =========================================================================================
pod                    its workload
service                itself; pods of its namespace that its old or new selector chooses; its endpoint slices
endpoint slice         its workloads
node                   the workloads of its pods
AuthorizationPolicy    itself; the pods that its old or new selector chooses
PeerAuthentication     itself and, one of a namespace or the mesh: all pods and workload level objects below it
mesh                   everything
=====================  =========================================================================================
"""

from collections.abc import Iterable
from typing import Final

from controlplane.model import resources
from controlplane.model.index import Index, Key
from controlplane.translate import authorization, peer_authentication, services, workloads
from controlplane.translate.mesh import Mesh, matches
from meshapi import names
from meshapi.resources.core import EndpointSlice, Node, Pod, Service
from meshapi.resources.security import AuthorizationPolicy, PeerAuthentication
from meshkit.xds.source import Resource

Changes = dict[str, dict[str, Resource | None]]
"""By type URL: resource name to the new resource, or ``None`` for a removed one."""

_SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"


class Model:
    """Everything the control plane knows about the mesh. Not safe for threads."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.pods: Index[Pod] = Index()
        self.services: Index[Service] = Index()
        self.slices: Index[EndpointSlice] = Index()
        self.nodes: Index[Node] = Index()
        self.policies: Index[AuthorizationPolicy] = Index()
        self.peers: Index[PeerAuthentication] = Index()
        self.problems: dict[str, list[str]] = {}
        """By policy name: what layer 4 left out of it."""
        self._pods_on: dict[str, set[Key]] = {}
        self._resources: dict[str, dict[str, Resource]] = {names.ADDRESS_TYPE: {}, names.AUTHORIZATION_TYPE: {}}
        self._made: dict[tuple[str, Key], frozenset[str]] = {}
        self._dirty: dict[tuple[str, Key], None] = {}

    def put_pod(self, old: Pod | None, new: Pod | None) -> None:
        """File a pod."""
        self.pods.put(old, new)
        for pod in (old, new):
            if pod is None:
                continue
            on_node = self._pods_on.setdefault(pod.spec.node_name, set())
            if pod is old:
                on_node.discard(pod.key)
            else:
                on_node.add(pod.key)
            if not on_node:
                del self._pods_on[pod.spec.node_name]
            self._mark("pod", pod.key)

    def put_service(self, old: Service | None, new: Service | None) -> None:
        """File a service."""
        self.services.put(old, new)
        for service in (old, new):
            if service is None:
                continue
            self._mark("service", service.key)
            namespace = service.metadata.namespace
            if service.spec.selector:
                self._mark_pods(pod for pod in self.pods.within(namespace) if _selects(service, pod))
            for item in self.slices.within(namespace):
                if _service_key(item) == service.key:
                    self._mark("slice", item.key)

    def put_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        """File an endpoint slice."""
        self.slices.put(old, new)
        self._mark("slice", _key(old, new))

    def put_node(self, old: Node | None, new: Node | None) -> None:
        """File a node."""
        self.nodes.put(old, new)
        for key in self._pods_on.get(_key(old, new)[1], ()):
            self._mark("pod", key)

    def put_policy(self, old: AuthorizationPolicy | None, new: AuthorizationPolicy | None) -> None:
        """File an AuthorizationPolicy."""
        self.policies.put(old, new)
        self._mark("policy", _key(old, new))
        for policy in (old, new):
            selector = authorization.selector(policy) if policy is not None else {}
            if policy is not None and selector:
                self._mark_pods(
                    pod for pod in self._scope(policy.metadata.namespace) if matches(selector, pod.metadata.labels)
                )

    def put_peer(self, old: PeerAuthentication | None, new: PeerAuthentication | None) -> None:
        """File a PeerAuthentication."""
        self.peers.put(old, new)
        self._mark("static", ("", ""))
        for peer in (old, new):
            if peer is None:
                continue
            self._mark("peer", peer.key)
            selector = peer_authentication.selector(peer)
            namespace = peer.metadata.namespace
            if selector:
                self._mark_pods(pod for pod in self.pods.within(namespace) if matches(selector, pod.metadata.labels))
                continue
            self._mark_pods(self._scope(namespace))
            below = self.peers if namespace == self.mesh.root_namespace else self.peers.within(namespace)
            for item in below:
                self._mark("peer", item.key)

    def put_mesh(self, mesh: Mesh) -> None:
        """Take new facts about the whole mesh."""
        if mesh == self.mesh:
            return
        self.mesh = mesh
        self._mark("static", ("", ""))
        self._mark_pods(self.pods)
        keys: dict[str, list[Key]] = {
            "service": [item.key for item in self.services],
            "slice": [item.key for item in self.slices],
            "policy": [item.key for item in self.policies],
            "peer": [item.key for item in self.peers],
        }
        for kind, marked in keys.items():
            for key in marked:
                self._mark(kind, key)

    def flush(self) -> Changes:
        """Recompute what is marked; return the resources that differ from before."""
        changes: Changes = {}
        dirty, self._dirty = self._dirty, {}
        for kind, key in dirty:
            type_url = names.ADDRESS_TYPE if kind in {"pod", "service", "slice"} else names.AUTHORIZATION_TYPE
            held = self._resources[type_url]
            made = {item.name: item for item in self._compute(kind, key)}
            for name in self._made.pop((kind, key), frozenset()) - made.keys():
                del held[name]
                changes.setdefault(type_url, {})[name] = None
            for name, item in made.items():
                if held.get(name) != item:
                    held[name] = item
                    changes.setdefault(type_url, {})[name] = item
            if made:
                self._made[kind, key] = frozenset(made)
        return changes

    def pods_on(self, node: str) -> list[Pod]:
        """Return the pods that are scheduled on a node."""
        found = (self.pods.find(key) for key in self._pods_on.get(node, ()))
        return [pod for pod in found if pod is not None]

    def all(self, type_url: str) -> dict[str, Resource]:
        """Return the resources of a type as of the last flush."""
        return dict(self._resources[type_url])

    def _compute(self, kind: str, key: Key) -> list[Resource]:
        match kind:
            case "pod":
                return self._pod(key)
            case "service":
                return self._service(key)
            case "slice":
                return self._slice(key)
            case "policy":
                return self._policy(key)
            case "peer":
                return self._peer(key)
            case _:
                any_peer = len(self.peers) > 0
                static = peer_authentication.static_strict(self.mesh.root_namespace)
                return [resources.of_policy(static)] if any_peer else []

    def _pod(self, key: Key) -> list[Resource]:
        pod = self.pods.find(key)
        if pod is None:
            return []
        workload = workloads.translate_pod(
            pod,
            self.mesh,
            services=self._services_of(pod),
            node=self.nodes.find(("", pod.spec.node_name)),
            policies=self._policies_of(pod),
        )
        return [] if workload is None else [resources.of_workload(workload)]

    def _services_of(self, pod: Pod) -> list[Service]:
        found = [
            service
            for service in self.services.within(pod.metadata.namespace)
            if service.spec.type != "ExternalName" and service.spec.selector and _selects(service, pod)
        ]
        return sorted(found, key=lambda service: service.metadata.name)

    def _policies_of(self, pod: Pod) -> list[str]:
        namespaces = {pod.metadata.namespace, self.mesh.root_namespace}
        chosen = [
            "/".join(policy.key)
            for namespace in namespaces
            for policy in self.policies.within(namespace)
            if (selector := authorization.selector(policy))
            and matches(selector, pod.metadata.labels)
            and authorization.is_sent(policy, self.mesh)
        ]
        levels = self._levels(pod.metadata.namespace, pod.metadata.labels)
        return [*sorted(chosen), *peer_authentication.attached(levels, self.mesh.root_namespace)]

    def _levels(self, namespace: str, labels: dict[str, str] | None) -> peer_authentication.Levels:
        root = self.mesh.root_namespace
        selector = peer_authentication.selector
        local = self.peers.within(namespace) if namespace != root else []
        chosen = [peer for peer in local if selector(peer) and labels is not None and matches(selector(peer), labels)]
        return peer_authentication.Levels(
            mesh=peer_authentication.oldest(peer for peer in self.peers.within(root) if not selector(peer)),
            namespace=peer_authentication.oldest(peer for peer in local if not selector(peer)),
            workload=peer_authentication.oldest(chosen),
        )

    def _service(self, key: Key) -> list[Resource]:
        service = self.services.find(key)
        translated = services.translate(service, self.mesh) if service is not None else None
        return [] if translated is None else [resources.of_service(translated)]

    def _slice(self, key: Key) -> list[Resource]:
        item = self.slices.find(key)
        service = self.services.find(_service_key(item)) if item is not None else None
        if item is None or service is None or service.spec.type == "ExternalName":
            return []
        return [resources.of_workload(workload) for workload in workloads.translate_slice(item, service, self.mesh)]

    def _policy(self, key: Key) -> list[Resource]:
        policy = self.policies.find(key)
        self.problems.pop("/".join(key), None)
        if policy is None:
            return []
        translation = authorization.translate(policy, self.mesh)
        if translation.problems:
            self.problems["/".join(key)] = translation.problems
        return [] if translation.policy is None else [resources.of_policy(translation.policy)]

    def _peer(self, key: Key) -> list[Resource]:
        peer = self.peers.find(key)
        if peer is None or key[0] == self.mesh.root_namespace:
            return []
        parent_is_strict = self._levels(key[0], None).parent_is_strict
        translated = peer_authentication.converted(peer, parent_is_strict=parent_is_strict)
        return [] if translated is None else [resources.of_policy(translated)]

    def _scope(self, namespace: str) -> Iterable[Pod]:
        """Return the pods that an object in ``namespace`` may be about: the root namespace is about all."""
        return self.pods if namespace == self.mesh.root_namespace else self.pods.within(namespace)

    def _mark(self, kind: str, key: Key) -> None:
        self._dirty[kind, key] = None

    def _mark_pods(self, pods: Iterable[Pod]) -> None:
        for pod in pods:
            self._mark("pod", pod.key)


def _selects(service: Service, pod: Pod) -> bool:
    return matches(service.spec.selector, pod.metadata.labels)


def _service_key(item: EndpointSlice) -> Key:
    return (item.metadata.namespace, item.metadata.labels.get(_SERVICE_NAME_LABEL, ""))


def _key(old: EndpointSlice | Node | AuthorizationPolicy | PeerAuthentication | None, new: object) -> Key:
    item = new if new is not None else old
    assert isinstance(item, EndpointSlice | Node | AuthorizationPolicy | PeerAuthentication)
    return item.key
