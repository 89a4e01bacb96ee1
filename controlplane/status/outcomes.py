"""The conditions of each object that gets some, as further values of the graph: an output of the same computation.

Of layer 4 it reports the first of these that applies: the object cannot be read; a proxy has refused what was made of
it; layer 4 leaves something out of it; it is accepted. Objects that are no policies have such a condition only in the
first two cases, and ServiceEntries where their hosts have no address. What labels attach to a waypoint has a condition
that says whether that holds.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.ambient import unbound
from controlplane.envoy.layer7 import Layer7
from controlplane.graph.collection import Collection, Source
from controlplane.graph.derived import Derived, Fetch
from controlplane.inputs.sources import Fault
from controlplane.stages import CONDITIONS
from controlplane.status import conditions, no_effect
from controlplane.status.at_gateways import GatewayConditions
from controlplane.status.conditions import Condition
from controlplane.status.layer7 import Layer7Conditions
from controlplane.waypoints.attachment import Attachment
from meshapi import names
from meshapi.resources import base
from meshapi.resources.core import Service
from meshapi.resources.destination_rule import DestinationRule
from meshapi.resources.envoy_filter import EnvoyFilter
from meshapi.resources.istio_gateway import Gateway
from meshapi.resources.networking import ServiceEntry, WorkloadEntry
from meshapi.resources.request_authentication import RequestAuthentication
from meshapi.resources.security import AuthorizationPolicy, PeerAuthentication
from meshapi.resources.telemetry import Telemetry
from meshapi.resources.virtual_service import VirtualService
from meshkit.kube import Key, Kind, kinds
from meshkit.xds.source import Resource


@dataclass(frozen=True, slots=True)
class Outcome:
    """Conditions, at most one of each type, and the generation of the object that they are about."""

    conditions: tuple[Condition, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class _Subject:
    """How the condition of a kind's objects is found.

    Attributes:
        kind: the kind.
        objects: its objects.
        type_url: of the resources that are made of them.
        evaluate: what layer 4 makes of an object; ``None``: nothing to report.
        resources: the resources that are made of an object; none: it has no condition of layer 4.
        attachment: what an object is attached to.
        layer7: what waypoints make of it; ``None``: nothing to report.
        at_gateways: what gateways of Istio's API make of it; ``None``: nothing to report.
    """

    kind: Kind
    objects: Source[Key, Any]
    type_url: str
    evaluate: Callable[[Any, Fetch], Condition | None]
    resources: Callable[[Key, Fetch], Iterable[Resource]]
    attachment: Callable[[Any, Fetch], Attachment | None] = lambda _, __: None
    layer7: Callable[[Any, Fetch], Condition | None] = lambda _, __: None
    at_gateways: Callable[[Any, Fetch], Condition | None] = lambda _, __: None


class Outcomes:
    """The conditions of objects.

    Attributes:
        by_kind: the conditions of each kind's objects.
        unusable: conditions of objects that cannot be read and have no other form in force, by kind's name and key.
    """

    def __init__(self, layer7: Layer7) -> None:
        self._model = model = layer7.model
        self._layer7 = Layer7Conditions(layer7)
        self._at_gateways = GatewayConditions(layer7)
        self._inputs = model.inputs
        self._subjects = {subject.kind.title: subject for subject in self._find_subjects()}
        self.by_kind: dict[Kind, Collection[Key, Outcome]] = {
            subject.kind: Derived(
                model.graph,
                f"conditions of {subject.kind.plural}",
                subject.objects,
                CONDITIONS,
                functools.partial(self._outcome, subject),
            )
            for subject in self._subjects.values()
        }
        self.unusable: Collection[tuple[str, Key], Outcome] = Derived(
            model.graph, "conditions of unusable objects", self._inputs.faults, CONDITIONS, self._unusable
        )

    def _find_subjects(self) -> Iterable[_Subject]:
        of, model, inputs = self._inputs.of, self._model, self._inputs

        def policy(item: AuthorizationPolicy, fetch: Fetch) -> Condition | None:
            made = fetch.find(model.policies, item.key)
            return conditions.of_policy(item, fetch.setting(inputs.mesh), made.problems if made is not None else ())

        def peer(item: PeerAuthentication, fetch: Fetch) -> Condition:
            return conditions.of_peer(item, fetch.setting(inputs.mesh))

        def policy_resources(key: Key, fetch: Fetch) -> Iterable[Resource]:
            made = fetch.find(model.policies, key)
            policy = fetch.find(of(AuthorizationPolicy), key)
            bound = [fetch.find(model.unbound, service) for service in unbound.services(policy)] if policy else []
            at_pods = [one.policies[key] for one in bound if one is not None and key in one.policies]
            return (*(made.resources if made is not None else ()), *at_pods)

        def resources_in(collection: str) -> Callable[[Key, Fetch], Iterable[Resource]]:
            return lambda key, fetch: fetch.find(model.resources[collection], key) or ()

        authorization, address = names.AUTHORIZATION_TYPE, names.ADDRESS_TYPE
        yield _Subject(
            kinds.AUTHORIZATION_POLICY, of(AuthorizationPolicy), authorization, policy, policy_resources,
            layer7=functools.partial(self._layer7.of_policy, "AuthorizationPolicy"),
        )  # fmt: skip
        yield _Subject(kinds.PEER_AUTHENTICATION, of(PeerAuthentication), authorization, peer, resources_in("peers"))
        yield from self._find_subjects_of_waypoints()
        waypoints = model.waypoints
        yield _Subject(
            kinds.SERVICE_ENTRY, of(ServiceEntry), address,
            lambda item, _: conditions.of_entry(item),
            resources_in("entries"),
            lambda item, fetch: fetch.find(waypoints.entries, item.key),
            layer7=self._layer7.of_service_entry,
        )  # fmt: skip
        yield _Subject(
            kinds.WORKLOAD_ENTRY, of(WorkloadEntry), address, _silent, resources_in("workload entries"),
            lambda item, fetch: waypoints.workload_attachment(item.metadata, fetch),
        )  # fmt: skip
        yield _Subject(
            kinds.SERVICE, of(Service), address, _silent, _nothing,
            lambda item, fetch: fetch.find(waypoints.services, item.key),
        )  # fmt: skip

    def _find_subjects_of_waypoints(self) -> Iterable[_Subject]:
        """Yield the kinds that count at waypoints only."""
        layer7 = self._layer7
        found: list[tuple[Kind, type[Any], Callable[[Any, Fetch], Condition | None]]] = [
            (
                kinds.REQUEST_AUTHENTICATION,
                RequestAuthentication,
                functools.partial(layer7.of_policy, "RequestAuthentication"),
            ),
            (kinds.TELEMETRY, Telemetry, layer7.of_telemetry),
            (kinds.DESTINATION_RULE, DestinationRule, layer7.of_destination_rule),
            (kinds.ENVOY_FILTER, EnvoyFilter, layer7.of_envoy_filter),
            *((kind, read, functools.partial(_always, no_effect.condition(kind))) for kind, read in no_effect.KINDS),
        ]
        yield _Subject(
            kinds.VIRTUAL_SERVICE, self._inputs.of(VirtualService), names.ADDRESS_TYPE, _silent, _nothing,
            layer7=layer7.of_virtual_service, at_gateways=self._at_gateways.of_virtual_service,
        )  # fmt: skip
        yield _Subject(
            kinds.ISTIO_GATEWAY, self._inputs.of(Gateway), names.ADDRESS_TYPE, _silent, _nothing,
            at_gateways=self._at_gateways.of_gateway,
        )  # fmt: skip
        for kind, model, evaluate in found:
            yield _Subject(kind, self._inputs.of(model), names.ADDRESS_TYPE, _silent, _nothing, layer7=evaluate)

    def _outcome(self, subject: _Subject, item: base.Object, fetch: Fetch) -> Outcome | None:
        fault = fetch.find(self._inputs.faults, (subject.kind.title, item.key))
        of_layer_4: Condition | None
        generation = item.metadata.generation
        if fault is not None:
            of_layer_4, generation = _of_fault(fault), fault.generation
        else:
            of_layer_4 = self._rejection(subject, item.key, fetch) or subject.evaluate(item, fetch)
        bound = conditions.of_attachment(subject.attachment(item, fetch))
        of_layer_7 = (subject.layer7(item, fetch), subject.at_gateways(item, fetch))
        found = tuple(one for one in (of_layer_4, bound, *of_layer_7) if one is not None)
        return Outcome(found, generation) if found else None

    def _rejection(self, subject: _Subject, key: Key, fetch: Fetch) -> Condition | None:
        for resource in subject.resources(key, fetch):
            rejection = fetch.find(self._inputs.rejections, (subject.type_url, resource.name))
            if rejection is not None:
                return conditions.of_rejected(rejection)
        return None

    def _unusable(self, fault: Fault, fetch: Fetch) -> Outcome | None:
        subject = self._subjects.get(fault.kind)
        if subject is None or fetch.find(subject.objects, fault.key) is not None:
            return None
        return Outcome((_of_fault(fault),), fault.generation)


def _silent(_: object, __: Fetch) -> None:
    return None


def _nothing(_: Key, __: Fetch) -> Iterable[Resource]:
    return ()


def _always(found: Condition, _: object, __: Fetch) -> Condition:
    return found


def _of_fault(fault: Fault) -> Condition:
    make = conditions.of_substituted if fault.is_substituted else conditions.of_refused
    return make(fault.reason)
