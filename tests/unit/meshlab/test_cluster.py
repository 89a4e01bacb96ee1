"""What the lab waits for at its API server."""

from typing import Any, cast

from meshlab import cluster
from meshlab.api import Api

DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "pools.example.com"},
}


class Answers:
    """An API server that answers with one status after the other, and with the last one from then on."""

    def __init__(self, *statuses: Any) -> None:
        self._statuses = list(statuses)
        self.reads = 0

    def read(self, _: str) -> dict[str, Any]:
        self.reads += 1
        return {**DEFINITION, "status": self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]}


def test_a_definition_without_conditions_yet_is_waited_for() -> None:
    established = {"conditions": [{"type": "Established", "status": "True"}]}
    api = Answers(None, {}, {"conditions": None}, {"conditions": []}, established)
    cluster.wait_for_definition(cast("Api", api), DEFINITION)
    assert api.reads == 5
