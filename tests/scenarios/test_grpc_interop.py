"""gRPC's interoperability tests, of its own client and server, through a waypoint and through a gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshlab import programs
from tests.scenarios import world
from tests.scenarios.files import Scenario, Service
from tests.scenarios.proxy import calling
from tests.support.waiting import scaled

Json = dict[str, Any]
ADDRESS, PORT = "10.0.77.1", 10000
CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
)
"""All of the specification that need no credentials of a cloud and no client that balances by itself."""

SLICE: Json = {
    "kind": "EndpointSlice",
    "metadata": {"name": "interop", "labels": {"kubernetes.io/service-name": "interop"}},
    "addressType": "IPv4",
    "ports": [{"name": "grpc", "port": PORT}],
    "endpoints": [{"addresses": [ADDRESS]}],
}
GATEWAY: Json = {
    "kind": "Gateway",
    "metadata": {"name": "gateway"},
    "spec": {"gatewayClassName": "istio", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
}
ROUTE: Json = {
    "kind": "GRPCRoute",
    "metadata": {"name": "interop"},
    "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": [{"name": "interop", "port": PORT}]}]},
}
SERVICES = {"interop": Service(ports={"grpc": PORT}, spec={"selector": {}}, pods={})}
AT_WAYPOINT = Scenario(about="", services=SERVICES, resources=(SLICE,), steps=())
AT_GATEWAY = Scenario(about="", gateway=True, services=SERVICES, resources=(SLICE, GATEWAY, ROUTE), steps=())


@pytest.fixture(scope="session")
def interop() -> Path:
    """The programs: built before the tests of this module leave the machine's network."""
    return programs.grpc_interop(print)


@pytest.fixture
async def server(interop: Path) -> AsyncIterator[None]:
    # It listens on every address, so on that of the pod, too.
    running = await asyncio.create_subprocess_exec(interop / "server", f"--port={PORT}")
    try:
        async with asyncio.timeout(scaled(10)):
            while not await listens():
                await asyncio.sleep(0.05)
        yield
    finally:
        running.terminate()
        await running.wait()


async def listens() -> bool:
    try:
        _, writer = await asyncio.open_connection(ADDRESS, PORT)
    except OSError:
        return False
    writer.close()
    return True


async def outcome(interop: Path, port: int, case: str) -> str:
    """What is wrong with a case; nothing if it passes."""
    flags = ("--server_host=127.0.0.1", f"--server_port={port}", f"--test_case={case}", "--use_tls=false")
    process = await asyncio.create_subprocess_exec(
        interop / "client", *flags, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return f"{case}: {output.decode()}" if process.returncode else ""


@pytest.mark.parametrize("scenario", [AT_WAYPOINT, AT_GATEWAY], ids=["waypoint", "gateway"])
@pytest.mark.usefixtures("server")
async def test_all_cases_pass(scenario: Scenario, interop: Path) -> None:
    async with world.running(scenario) as running, calling(running, f"10.96.0.1:{PORT}") as port:
        found = [await outcome(interop, port, case) for case in CASES]
    assert [one for one in found if one] == []
