"""What the lab expects of an addon."""

import json

import pytest

from meshlab.addons import ADDONS, Addon, prometheus
from meshlab.api import resource_path


@pytest.mark.parametrize(("name", "addon"), ADDONS.items())
def test_an_addon_is_a_workload_and_a_service_of_its_name(name: str, addon: Addon) -> None:
    paths = {resource_path(one): one for one in addon.resources()}
    assert f"/apis/apps/v1/namespaces/{addon.namespace}/{addon.workload.value[0]}/{name}" in paths
    if not addon.port:
        assert not [one for one in paths.values() if one["kind"] == "Service"]
        return
    service = paths[f"/api/v1/namespaces/{addon.namespace}/services/{name}"]
    assert [port["port"] for port in service["spec"]["ports"]] == [addon.port]
    assert next(iter(paths)) == f"/api/v1/namespaces/{addon.namespace}", "its namespace comes first"


def test_a_changed_configuration_changes_the_pod_template(monkeypatch: pytest.MonkeyPatch) -> None:
    def annotations() -> dict[str, str]:
        [deployment] = [one for one in prometheus.resources() if one["kind"] == "Deployment"]
        found: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
        return found

    before = annotations()
    monkeypatch.setattr(prometheus, "_CONFIG", json.dumps({}))
    assert annotations() != before
