"""Patches, and what has become of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from controlplane.envoy.placing import Effect, Source
from meshapi.resources.envoy_filter import ApplyTo, FilterClass, Operation, PatchContext, RouteAction
from meshkit.kube import Key

KIND = "EnvoyFilter"


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions of a patch; all of them have to hold. Empty texts and 0 match anything.

    Attributes:
        context: as the user has written it.
        port: of the service.
        listener: name of a listener.
        listener_filter: name of a listener filter.
        chain: name of a filter chain.
        server_name: one that the chain's own match has.
        transport: the transport protocol of the chain's own match.
        applications: application protocols that the chain's own match has.
        chain_port: destination port of the chain's own match.
        filter: name of a network filter.
        sub_filter: name of an HTTP filter.
        routes: name of a route configuration.
        host: name of a virtual host.
        domain: one that the virtual host has.
        has_route: whether a route is looked for.
        route: name of a route.
        action: what the route does.
        cluster: name of a cluster; the next two count without it only.
        service: host of a cluster's service.
        subset: of a cluster's service.
    """

    context: PatchContext = PatchContext.ANY
    port: int = 0
    listener: str = ""
    listener_filter: str = ""
    chain: str = ""
    server_name: str = ""
    transport: str = ""
    applications: tuple[str, ...] = ()
    chain_port: int = 0
    filter: str = ""
    sub_filter: str = ""
    routes: str = ""
    host: str = ""
    domain: str = ""
    has_route: bool = False
    route: str = ""
    action: RouteAction = RouteAction.ANY
    cluster: str = ""
    service: str = ""
    subset: str = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """One change.

    Attributes:
        key: the EnvoyFilter.
        index: its position in the EnvoyFilter.
        apply_to: what is patched.
        operation: how.
        match: which of these.
        value: what is added or merged; ``None``: nothing, with ``REMOVE``.
        filter_class: behind which filters one is added.
    """

    key: Key
    index: int
    apply_to: ApplyTo
    operation: Operation
    match: Match
    value: Message | None
    filter_class: FilterClass = FilterClass.UNSPECIFIED

    @property
    def merges(self) -> bool:
        """Whether it is a kind of merging."""
        return self.operation in {Operation.MERGE, Operation.MERGE_AND_REPLACE_LIST}


@dataclass(slots=True)
class Patching:
    """The patches for one computation, and their effects.

    Attributes:
        patches: by what they apply to, in the order in which they are applied.
        effects: filled by use.
    """

    patches: Mapping[ApplyTo, tuple[Patch, ...]]
    effects: set[Effect] = field(default_factory=set)

    def of(self, apply_to: ApplyTo) -> tuple[Patch, ...]:
        """Return the patches for a kind."""
        return self.patches.get(apply_to, ())

    def applied(self, patch: Patch) -> None:
        """Note that a patch was applied."""
        self.effects.add(Effect(patch.key, patch.index))

    def failed(self, patch: Patch, problem: str) -> None:
        """Note why a patch was not applied to a message that it matches."""
        self.effects.add(Effect(patch.key, patch.index, problem))

    @property
    def sources(self) -> Iterable[Source]:
        """The EnvoyFilters that have had a part."""
        return {(KIND, one.key) for one in self.effects}
