"""The engine evaluates policies as the plain model does, for any policies in any order of arrival."""

from collections.abc import Iterator

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from meshapi import names
from meshapi.proto import authorization_pb2 as pb
from meshapi.proto import engine_pb2, workload_pb2
from meshengine import ConfigRejected, Engine
from tests.property import strategies
from tests.support import authorization_model as model

UID = "Kubernetes//Pod/shop/server"
NAMESPACE = "shop"

keys = st.sampled_from([f"{namespace}/{name}" for namespace in strategies.NAMESPACES[:2] for name in "abcd"])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    yield made
    made.close()


class Host:
    """The engine, and the state that it should have."""

    def __init__(self, engine: Engine, named: list[str]) -> None:
        self._engine = engine
        self._named = named
        self._policies: dict[str, pb.Authorization] = {}
        everything = [f"{namespace}/{name}" for namespace in strategies.NAMESPACES[:2] for name in "abcd"]
        engine.apply(names.AUTHORIZATION_TYPE, [], everything)
        workload = workload_pb2.Workload(uid=UID, namespace=NAMESPACE, authorization_policies=named)
        address = workload_pb2.Address(workload=workload).SerializeToString()
        engine.apply(names.ADDRESS_TYPE, [(UID, address)], [])

    def apply(self, change: pb.Authorization | str) -> None:
        if isinstance(change, str):
            self._policies.pop(change, None)
            self._engine.apply(names.AUTHORIZATION_TYPE, [], [change])
            return
        key = f"{change.namespace}/{change.name}"
        upserts = [(key, change.SerializeToString())]
        if model.is_acceptable(change):
            self._policies[key] = change
            self._engine.apply(names.AUTHORIZATION_TYPE, upserts, [])
        else:
            # The last good form, if there was one, stays.
            with pytest.raises(ConfigRejected, match=key):
                self._engine.apply(names.AUTHORIZATION_TYPE, upserts, [])

    def compare(self, connection: model.Connection) -> None:
        wanted = model.evaluate(self._policies, NAMESPACE, self._named, connection)
        packed = self._engine.authorize(
            UID,
            str(connection.peer) if connection.peer else None,
            str(connection.source),
            str(connection.destination),
            connection.port,
        )
        found = engine_pb2.Verdict.FromString(packed)
        assert found.allowed is wanted.allowed, (found, wanted)
        assert found.policy in (wanted.policies or {""})
        assert (found.reason == "") is wanted.allowed
        assert found.dry_run == sorted(wanted.dry_run)
        event(f"allowed: {wanted.allowed}, decided by a policy: {bool(wanted.policies)}")


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(strategies.policies | strategies.policies | keys, min_size=1, max_size=8),
    named=st.lists(keys, max_size=1),
    connections=st.lists(strategies.connections, min_size=1, max_size=6),
)
def test_the_engine_evaluates_policies_as_the_model_does(
    engine: Engine, changes: list[pb.Authorization | str], named: list[str], connections: list[model.Connection]
) -> None:
    host = Host(engine, named)
    for change in changes:
        host.apply(change)
    for connection in connections:
        host.compare(connection)


def test_a_query_for_an_unknown_workload_or_with_invalid_values_is_refused(engine: Engine) -> None:
    Host(engine, [])
    with pytest.raises(ConfigRejected, match="nobody: no workload has this uid"):
        engine.authorize("nobody", None, "10.0.0.1", "10.0.0.2", 80)
    with pytest.raises(ConfigRejected, match="is not a workload identity"):
        engine.authorize(UID, "web", "10.0.0.1", "10.0.0.2", 80)
    with pytest.raises(ValueError, match='destination_ip: "server" is not an IP address'):
        engine.authorize(UID, None, "10.0.0.1", "server", 80)
