"""The incremental model: takes changed objects in, gives changed resources out.

Two steps. ``put_…`` stores an object and enqueues what depends on it; ``flush`` recomputes the queue, each thing
once, and returns the resources whose bytes have really changed. Every computed thing depends on the objects held and
on nothing else, so any order of events leads to the same resources as a computation from scratch (property test).

A flush may be limited (``limit``): a change of the whole mesh enqueues every pod. The order is then: policies, objects
enqueued by single events, objects enqueued in bulk. A resource that no object
makes any more is withdrawn when everything has been computed.

=====================  =========================================================================================
changed                enqueues
=====================  =========================================================================================
pod                    its workload
service                itself; workloads of its namespace that its old or new selector chooses; its endpoint slices;
                       ServiceEntries that claim its name, as above
endpoint slice         its workloads
node                   the workloads of its pods
namespace              its ServiceEntries, where their visibility depends on its labels
ServiceEntry           itself, those that have or had one of its hosts, and the workloads that any of them chooses
WorkloadEntry          its workload
AuthorizationPolicy    itself; the workloads that its old or new selector chooses
PeerAuthentication     itself and, one of a namespace or the mesh: all workloads and workload level objects below it
mesh                   everything
=====================  =========================================================================================
"""

from collections.abc import Callable, Iterable, Set
from typing import Final

from controlplane.ambient import authorization, peer_authentication, resources, services, workloads
from controlplane.ambient import service_entries as entries
from controlplane.graph.dirty_queue import SETTINGS_KIND, Dirty, DirtyQueue, type_of
from controlplane.graph.entries import Entries
from controlplane.graph.index import Index, Key
from controlplane.inputs import visibility
from controlplane.inputs.mesh import MeshContext, matches
from meshapi import names
from meshapi.proto import mesh_config_pb2
from meshapi.resources.base import Object
from meshapi.resources.core import EndpointSlice, Namespace, Node, Pod, Service
from meshapi.resources.networking import ServiceEntry, WorkloadEntry
from meshapi.resources.security import AuthorizationPolicy, PeerAuthentication
from meshkit.xds.source import Resource

Changes = dict[str, dict[str, Resource | None]]
"""By type URL: resource name to the new resource, or ``None`` for a removed one."""

_TYPES: Final = (names.MESH_CONFIG_TYPE, names.AUTHORIZATION_TYPE, names.ADDRESS_TYPE)
BULK_THRESHOLD: Final = 256
"""An event that enqueues more objects than this is bulk: single events go first."""
_SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"


class Model:
    """Everything the control plane knows about the mesh. Not safe for threads."""

    def __init__(self, mesh: MeshContext) -> None:
        self.mesh = mesh
        self.pods: Index[Pod] = Index()
        self.services: Index[Service] = Index()
        self.slices: Index[EndpointSlice] = Index()
        self.nodes: Index[Node] = Index()
        self.namespaces: Index[Namespace] = Index()
        self.policies: Index[AuthorizationPolicy] = Index()
        self.peers: Index[PeerAuthentication] = Index()
        self.entries = Entries()
        self.workload_entries: Index[WorkloadEntry] = Index()
        self.problems: dict[str, list[str]] = {}
        """By policy name: what layer 4 left out of it."""
        self._compute: dict[str, Callable[[Key], list[Resource]]] = {
            "pod": self._pod,
            "service": self._service,
            "slice": self._slice,
            "entry": self._entry,
            "workload": self._workload_entry,
            "policy": self._policy,
            "peer": self._peer,
            "static": self._static,
            SETTINGS_KIND: self._settings,
        }
        self._pods_on: dict[str, set[Key]] = {}
        self._resources: dict[str, dict[str, Resource]] = {type_url: {} for type_url in _TYPES}
        self._made: dict[Dirty, frozenset[str]] = {}
        self._owners: dict[str, dict[str, Dirty]] = {type_url: {} for type_url in _TYPES}
        self._dirty = DirtyQueue()
        self._failures: list[tuple[Dirty, Exception]] = []
        self._orphans: dict[str, set[str]] = {type_url: set() for type_url in _TYPES}
        self.proxy_settings: mesh_config_pb2.MeshConfig | None = None

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
            self._enqueue("pod", pod.key)

    def put_service(self, old: Service | None, new: Service | None) -> None:
        """File a service."""
        self.services.put(old, new)
        for service in (old, new):
            if service is None:
                continue
            self._enqueue("service", service.key)
            namespace = service.metadata.namespace
            if service.spec.selector:
                self._enqueue_selected(namespace, service.spec.selector)
            for claimant in self.entries.claimants(self.mesh.hostname(service)):
                self._enqueue_entry(claimant)
            for item in self.slices.within(namespace):
                if _service_key(item) == service.key:
                    self._enqueue("slice", item.key)

    def put_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        """File an endpoint slice."""
        self.slices.put(old, new)
        self._enqueue("slice", _key(old, new))

    def put_node(self, old: Node | None, new: Node | None) -> None:
        """File a node."""
        self.nodes.put(old, new)
        for key in self._pods_on.get(_key(old, new)[1], ()):
            self._enqueue("pod", key)

    def put_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        """File a namespace."""
        self.namespaces.put(old, new)
        if self.mesh.service_entry_visibility is not None:
            self._enqueue_all("entry", self.entries.within(_key(old, new)[1]))

    def labels_of_namespace(self, name: str) -> dict[str, str]:
        """Return a namespace's labels; none where it is not known."""
        found = self.namespaces.find(("", name))
        return found.metadata.labels if found is not None else {}

    def put_entry(self, old: ServiceEntry | None, new: ServiceEntry | None) -> None:
        """File a ServiceEntry."""
        given = [entry for entry in (old, new) if entry is not None]
        owners = {key for entry in given for key in self.entries.owners(entry)}
        self.entries.put(old, new)
        owners |= {key for entry in given for key in self.entries.owners(entry)}
        for entry in (*given, *(owner for key in owners if (owner := self.entries.find(key)) is not None)):
            self._enqueue_entry(entry)

    def put_workload_entry(self, old: WorkloadEntry | None, new: WorkloadEntry | None) -> None:
        """File a WorkloadEntry."""
        self.workload_entries.put(old, new)
        self._enqueue("workload", _key(old, new))

    def put_policy(self, old: AuthorizationPolicy | None, new: AuthorizationPolicy | None) -> None:
        """File an AuthorizationPolicy."""
        self.policies.put(old, new)
        self._enqueue("policy", _key(old, new))
        for policy in (old, new):
            selector = authorization.selector(policy) if policy is not None else {}
            if policy is not None and selector:
                self._enqueue_selected(self._scope(policy.metadata.namespace), selector)

    def put_peer(self, old: PeerAuthentication | None, new: PeerAuthentication | None) -> None:
        """File a PeerAuthentication."""
        self.peers.put(old, new)
        self._enqueue("static", ("", ""))
        for peer in (old, new):
            if peer is None:
                continue
            self._enqueue("peer", peer.key)
            selector = peer_authentication.selector(peer)
            namespace = peer.metadata.namespace
            if selector:
                self._enqueue_selected(namespace, selector)
                continue
            scope = self._scope(namespace)
            self._enqueue_selected(scope, {})
            self._enqueue_all("peer", self.peers if scope is None else self.peers.within(scope))

    def put_mesh(self, mesh: MeshContext) -> None:
        """Take new facts about the whole mesh."""
        if mesh == self.mesh:
            return
        self.mesh = mesh
        self._enqueue("static", ("", ""))
        self._enqueue_selected(None, {})
        self._enqueue_all("service", self.services)
        self._enqueue_all("slice", self.slices)
        self._enqueue_all("entry", self.entries)
        self._enqueue_all("policy", self.policies)
        self._enqueue_all("peer", self.peers)

    def put_proxy_settings(self, settings: mesh_config_pb2.MeshConfig) -> None:
        """Take the settings of proxies."""
        self.proxy_settings = settings
        self._enqueue(SETTINGS_KIND, ("", ""))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to compute."""
        return not len(self._dirty)

    def flush(self, limit: int | None = None) -> Changes:
        """Recompute at most ``limit`` enqueued objects; return the resources that changed."""
        made: dict[str, dict[str, Resource]] = {type_url: {} for type_url in _TYPES}
        for kind, key in self._dirty.take(limit):
            type_url = type_of(kind)
            try:
                items = {item.name: item for item in self._compute[kind](key)}
            except Exception as error:  # one unforeseen object must not stop the others
                self._failures.append(((kind, key), error))
                continue
            self._own(type_url, (kind, key), items.keys())
            made[type_url].update(items)
        changes: Changes = {}
        for type_url, items in made.items():
            changed = self._withdrawn(type_url)
            held = self._resources[type_url]
            changed |= {name: item for name, item in items.items() if held.get(name) != item}
            for name, item in changed.items():
                if item is None:
                    held.pop(name, None)
                else:
                    held[name] = item
            if changed:
                changes[type_url] = changed
        return changes

    def take_failures(self) -> list[tuple[Dirty, Exception]]:
        """Return the objects that could not be computed since the last call; what they made before stays."""
        failures, self._failures = self._failures, []
        return failures

    def _own(self, type_url: str, maker: Dirty, made: Set[str]) -> None:
        """Record which resources an object makes now; a resource without a maker is an orphan."""
        owners, orphans = self._owners[type_url], self._orphans[type_url]
        for name in self._made.pop(maker, frozenset()) - made:
            if owners.get(name) == maker:
                del owners[name]
                orphans.add(name)
        for name in made:
            owners[name] = maker
            orphans.discard(name)
        if made:
            self._made[maker] = frozenset(made)

    def _withdrawn(self, type_url: str) -> dict[str, Resource | None]:
        """Return what is gone.

        Not before everything is computed that may still need it: a name may move from one object to another, and a
        workload that names a policy which is gone is closed to everybody.
        """
        orphans = self._orphans[type_url]
        if not orphans or len(self._dirty):
            return {}
        self._orphans[type_url] = set()
        return dict.fromkeys(sorted(orphans))

    def pods_on(self, node: str) -> list[Pod]:
        """Return the pods that are scheduled on a node."""
        found = (self.pods.find(key) for key in self._pods_on.get(node, ()))
        return [pod for pod in found if pod is not None]

    def all(self, type_url: str) -> dict[str, Resource]:
        """Return the resources of a type as of the last flush."""
        return dict(self._resources[type_url])

    def _static(self, _: Key) -> list[Resource]:
        static = peer_authentication.static_strict(self.mesh.root_namespace)
        return [resources.of_policy(static)] if len(self.peers) else []

    def _settings(self, _: Key) -> list[Resource]:
        return [] if self.proxy_settings is None else [resources.of_settings(self.proxy_settings)]

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
            entries=[
                (entries.service_name(entry, host), entries.entry_ports(entry, {}))
                for entry, host in self._entries_of(pod)
            ],
        )
        return [] if workload is None else [resources.of_workload(workload)]

    def _entry(self, key: Key) -> list[Resource]:
        entry = self.entries.find(key)
        if entry is None:
            return []
        hosts = self._hosts(entry)
        canonical = frozenset(
            host for host in hosts if self.entries.is_first(entry, host) and not self._kubernetes(host)
        )
        visible = visibility.of_entry(entry, self.mesh, self.labels_of_namespace(entry.metadata.namespace))
        found = entries.translate_hosts(entry, hosts, self.mesh, canonical=canonical, visibility=visible)
        endpoints = entries.translate_endpoints(entry, hosts, self.mesh)
        return [*map(resources.of_service, found), *map(resources.of_workload, endpoints)]

    def _workload_entry(self, key: Key) -> list[Resource]:
        entry = self.workload_entries.find(key)
        if entry is None:
            return []
        chosen = {
            self.mesh.service_name(service): entries.kubernetes_ports(service, entry)
            for service in self._services_of(entry)
        }
        for owner, host in self._entries_of(entry):
            chosen[entries.service_name(owner, host)] = entries.entry_ports(owner, entry.spec.ports)
        workload = entries.translate_workload(entry, self.mesh, services=chosen, policies=self._policies_of(entry))
        return [] if workload is None else [resources.of_workload(workload)]

    def _hosts(self, entry: ServiceEntry) -> list[str]:
        """Return the hosts that an entry has: a service of its own namespace with the same name goes before it."""
        namespace = entry.metadata.namespace
        return self.entries.served(entry, lambda host: self._kubernetes(host) == namespace)

    def _kubernetes(self, host: str) -> str | None:
        """Return the namespace of the Kubernetes service with this host name, or ``None``."""
        name, _, rest = host.partition(".")
        namespace, _, suffix = rest.partition(".")
        is_service = suffix == f"svc.{self.mesh.cluster_domain}" and self.services.find((namespace, name)) is not None
        return namespace if is_service else None

    def _entries_of(self, workload: Pod | WorkloadEntry) -> list[tuple[ServiceEntry, str]]:
        """Return the entries that select a workload, with their hosts."""
        return [
            (entry, host)
            for entry in self.entries.within(workload.metadata.namespace)
            if entry.spec.workload_selector is not None
            and entry.spec.workload_selector.labels
            and matches(entry.spec.workload_selector.labels, _labels(workload))
            for host in self._hosts(entry)
        ]

    def _services_of(self, workload: Pod | WorkloadEntry) -> list[Service]:
        found = [
            service
            for service in self.services.within(workload.metadata.namespace)
            if service.spec.type != "ExternalName"
            and service.spec.selector
            and matches(service.spec.selector, _labels(workload))
        ]
        return sorted(found, key=lambda service: service.metadata.name)

    def _policies_of(self, workload: Pod | WorkloadEntry) -> list[str]:
        namespaces = {workload.metadata.namespace, self.mesh.root_namespace}
        labels = _labels(workload)
        chosen = [
            "/".join(policy.key)
            for namespace in namespaces
            for policy in self.policies.within(namespace)
            if (selector := authorization.selector(policy))
            and matches(selector, labels)
            and authorization.is_sent(policy, self.mesh)
        ]
        levels = self._levels(workload.metadata.namespace, labels)
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

    def _scope(self, namespace: str) -> str | None:
        """Return the namespace that an object in ``namespace`` is about; ``None``: all, from the root namespace."""
        return None if namespace == self.mesh.root_namespace else namespace

    def _enqueue(self, kind: str, key: Key) -> None:
        self._dirty.add(kind, key)

    def _enqueue_entry(self, entry: ServiceEntry) -> None:
        """Enqueue an entry and what it selects: it may have gained or lost a host."""
        self._enqueue("entry", entry.key)
        if entry.spec.workload_selector is not None and entry.spec.workload_selector.labels:
            self._enqueue_selected(entry.metadata.namespace, entry.spec.workload_selector.labels)

    def _enqueue_all(self, kind: str, items: Iterable[Object]) -> None:
        keys = [item.key for item in items]
        for key in keys:
            self._dirty.add(kind, key, bulk=len(keys) > BULK_THRESHOLD)

    def _enqueue_selected(self, namespace: str | None, selector: dict[str, str]) -> None:
        """Enqueue the workloads of a namespace (``None``: of all) that a selector matches; an empty one matches all."""
        pods = self.pods if namespace is None else self.pods.within(namespace)
        others = self.workload_entries if namespace is None else self.workload_entries.within(namespace)
        self._enqueue_all("pod", (pod for pod in pods if matches(selector, pod.metadata.labels)))
        self._enqueue_all("workload", (entry for entry in others if matches(selector, entry.spec.labels)))


def _labels(workload: Pod | WorkloadEntry) -> dict[str, str]:
    return workload.spec.labels if isinstance(workload, WorkloadEntry) else workload.metadata.labels


def _service_key(item: EndpointSlice) -> Key:
    return (item.metadata.namespace, item.metadata.labels.get(_SERVICE_NAME_LABEL, ""))


def _key(old: Object | None, new: Object | None) -> Key:
    item = new if new is not None else old
    if item is None:
        raise AssertionError("an event is about an object")
    return item.key
