"""What a scenario's file cannot say about Secrets for TLS to services: connections that are open when one changes."""

import asyncio

from tests.scenarios import world
from tests.scenarios.files import Behaviour, Scenario, Service
from tests.scenarios.proxy import answers, page

SECRET = {"kind": "Secret", "metadata": {"name": "pair"}, "certificate": {"hosts": ["client.example"], "roots": "own"}}
RULE = {
    "kind": "DestinationRule",
    "metadata": {"name": "web"},
    "spec": {"host": "web", "trafficPolicy": {"tls": {"mode": "MUTUAL", "credentialName": "pair"}}},
}


async def test_a_secret_that_changes_drops_no_connection_and_counts_for_new_ones() -> None:
    services = {"web": Service(pods={"v1": Behaviour(tls=("web",), mutual=True)})}
    async with world.running(Scenario(about="", services=services, resources=(SECRET, RULE), steps=())) as running:

        async def counted(name: str) -> int:
            """Sum of a counter over the clusters of the service."""
            lines = (await page(running, f"/stats?filter=web.*{name}$")).splitlines()
            return sum(int(line.rpartition(": ")[2]) for line in lines)

        async def request() -> int:
            return (await answers(running, running.address("web", 8080), headers={"host": "web"})).status

        assert await request() == 200
        updates = await counted("ssl_context_update_by_sds")
        running.put(SECRET)  # another certificate
        running.publish()
        async with asyncio.timeout(10):
            while await counted("ssl_context_update_by_sds") == updates:
                await asyncio.sleep(0.02)
        assert await request() == 200
        assert await counted("upstream_cx_destroy") == 0
        assert await counted("ssl.fail_verify_error") == 0
