"""The command group ``culvert waypoint``: what it writes and shows."""

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from meshctl import waypoint
from meshctl.session import CommandError
from tests.support.kubernetes_objects import gateway, hostname_of


def ready(**options: Any) -> dict[str, Any]:
    item = gateway(addresses=hostname_of(), **options)
    item["status"]["conditions"] = [{"type": "Programmed", "status": "True", "reason": "Programmed", "message": "ok"}]
    return item


def test_generate_prints_what_istioctl_prints() -> None:
    done = CliRunner().invoke(waypoint.app, ["generate", "-n", "shop", "--for", "all"])
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout) == {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": "shop", "labels": {"istio.io/waypoint-for": "all"}},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    }


@pytest.mark.parametrize(("name", "handles", "said"), [("none", "", "no name"), ("w", "everything", "--for")])
def test_what_means_nothing_is_refused(name: str, handles: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        waypoint.manifest(name, "shop", handles)


def test_tables() -> None:
    items = [ready(), gateway("new", labels={"istio.io/waypoint-for": "workload"})]
    assert [row[1:] for row in waypoint.listed(items).rows] == [
        ("new", "workload", "", "Unknown"),
        ("waypoint", "service", "waypoint.shop.svc.cluster.local", "True"),
    ]
    assert ("shop", "waypoint", "Programmed", "True", "Programmed", "ok") in waypoint.states(items).rows
    assert ("shop", "new", "Accepted", "Unknown", "", "") in waypoint.states(items).rows
