"""Open Policy Agent decides on requests through a waypoint (``envoyExtAuthzGrpc``)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshlab import programs
from tests.scenarios import world
from tests.scenarios.files import Scenario, Service
from tests.scenarios.proxy import answers
from tests.support.kubernetes_objects import pod
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(900)  # with the build

ADDRESS = "10.0.9.9"
PORT = 9191
POLICY = """
package envoy.authz

request := input.attributes.request.http

caller := split(request.headers["x-forwarded-client-cert"], "/sa/")[1]

allow := {"allowed": true, "headers": {"x-checked-by": "opa"}} if {
    request.method == "GET"
    input.parsed_path[0] == "public"
} else := {"allowed": true} if {
    caller == "admin"
} else := {"allowed": false, "http_status": 418, "body": sprintf("%s may not", [caller])}
"""
SCENARIO = Scenario(
    about="",
    services={"web": Service(), "opa": Service(ports={"grpc": PORT}, pods={})},
    mesh={
        "extensionProviders": [
            {"name": "opa", "envoyExtAuthzGrpc": {"service": "opa.default.svc.cluster.local", "port": PORT}}
        ]
    },
    resources=(
        {
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "asked"},
            "spec": {
                "targetRefs": [{"kind": "Service", "group": "", "name": "web"}],
                "action": "CUSTOM",
                "provider": {"name": "opa"},
                "rules": [{"to": [{"operation": {"notPaths": ["/free"]}}]}],
            },
        },
    ),
    steps=(),
)


@pytest.fixture(scope="session")
def program() -> Path:
    """Built before the test is in a network of its own, from which no source can be fetched."""
    return programs.opa(print) / "opa"


@contextlib.asynccontextmanager
async def opa(program: Path, folder: Path) -> AsyncIterator[None]:
    policy, log = folder / "policy.rego", folder / "opa.txt"
    policy.write_text(POLICY)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program, f"{ADDRESS}:{PORT}", policy, stdout=output, stderr=output
        )
    try:
        await until(lambda: "serving" in log.read_text() or process.returncode is not None, within_s=20)
        assert process.returncode is None, log.read_text()
        yield
    finally:
        process.kill()
        await process.wait()


async def test_its_policy_decides_by_request_and_caller(program: Path) -> None:
    async with world.running(SCENARIO) as running:
        assert (await answers(running, "10.96.0.1:8080", "/public/a")).status == 403, "nobody decides"
        assert (await answers(running, "10.96.0.1:8080", "/free")).status == 200, "no rule asks about it"
        running.put({"kind": "Pod", **pod("opa", "default", ip=ADDRESS, labels={"app": "opa"})})
        running.publish()
        async with opa(program, running.folder):
            async with asyncio.timeout(30):
                while (await answers(running, "10.96.0.1:8080", "/public/a")).status != 200:
                    await asyncio.sleep(0.05)
            assert running.seen[-1].headers["x-checked-by"] == "opa"
            refused = await answers(running, "10.96.0.1:8080", "/private")
            assert (refused.status, refused.body) == (418, "client may not")
            assert (await answers(running, "10.96.0.1:8080", "/private", account="admin")).status == 200
            assert "x-checked-by" not in running.seen[-1].headers
