"""Changes that other processes make to the rules of captured pods are undone soon, cheaply, and logged once."""

import asyncio
import os
import resource
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from meshapi.identity import SpiffeId
from meshkit.linux import links, netns
from nodeagent.capture.annotations import PlanResult
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.host_probes import ProbeExemption
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.repair import Repairs
from nodeagent.enrolment.captured import Captured, Enrolled
from tests.support import backends
from tests.support.waiting import until
from tests.support.wired import Wired, shell, wired

pytestmark = pytest.mark.root


class Agent:
    """The part of the node agent that repairs, on two real namespaces: a pod and a host."""

    def __init__(self, backend: CaptureBackend, pods: Wired) -> None:
        self.backend = backend.pods
        self.probes = backend.probes
        self.pods = pods
        self.enrolled = Enrolled()
        self.exemption = ProbeExemption(backend.probes, pods.second, self.enrolled.addresses)
        self.turns: dict[str, asyncio.Lock] = {}
        self.repairs = Repairs(
            backend.pods, self.enrolled, self.exemption, lambda uid: self.turns.setdefault(uid, asyncio.Lock())
        )

    async def capture(self, uid: str = "pod", space: Path | None = None) -> Captured:
        namespace = os.open(space or self.pods.first, os.O_RDONLY | os.O_CLOEXEC)
        identity = SpiffeId("cluster.local", "shop", "web")
        captured = Captured(backends.sandbox(namespace), identity, PlanResult(PodPlan()), ("10.78.0.1",))
        self.backend.prepare(captured.sandbox)
        self.backend.apply(captured.sandbox, captured.plan)
        self.enrolled.put(uid, captured)
        await self.exemption.update()
        return captured

    def sound(self) -> bool:
        captured = self.enrolled.find("pod")
        assert captured is not None
        return not self.backend.missing(captured.sandbox, captured.plan)

    def host_sound(self) -> bool:
        return not self.probes.missing(self.pods.second, self.enrolled.addresses())


@pytest.fixture(params=backends.NAMES)
async def agent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Agent]:
    with wired() as pods:
        made = Agent(backends.backend(request.param, tmp_path / "lock"), pods)
        await made.capture()
        task = asyncio.create_task(made.repairs.run())
        await until(lambda: made.repairs.settled)
        assert made.repairs.repaired.total() == 0
        yield made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for uid in list(made.enrolled):
            captured = made.enrolled.take(uid)
            assert captured is not None
            captured.close()


FLUSHES = {
    "everything": f"{backends.FLUSH}; {backends.REMOVE_HOOKS}",
    "restore": "printf '*nat\\nCOMMIT\\n*mangle\\nCOMMIT\\n' > /tmp/empty.$$; iptables-legacy-restore /tmp/empty.$$; "
    "iptables-nft-restore /tmp/empty.$$; nft delete table inet culvert || true; rm /tmp/empty.$$; "
    f"{backends.REMOVE_HOOKS}",
    "rule": "ip rule del priority 32764",
    "rule of IPv6": "ip -6 rule del priority 32764",
    "route": "ip route flush table 100",
    "route of IPv6": "ip -6 route flush table 100",
    "guard": "tc qdisc del dev eth0 clsact",
    "guard alone": "tc filter del dev eth0 egress",
}


@pytest.mark.parametrize("flush", FLUSHES)
async def test_a_pods_rules_are_restored_within_a_second(
    agent: Agent, flush: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shell(agent.pods.first, FLUSHES[flush])
    await until(agent.sound, within_s=1.0)
    await until(lambda: agent.repairs.settled)
    assert agent.repairs.repaired["pod"] >= 1
    shell(agent.pods.first, FLUSHES[flush])
    await until(agent.sound, within_s=1.0)
    await until(lambda: agent.repairs.settled)
    logged = [line for line in "".join(capsys.readouterr()).splitlines() if "changed the capture rules" in line]
    assert len(logged) == 1, "one incident, one line"
    assert "shop/web" in logged[0]
    assert agent.repairs.repaired["pod"] >= 2
    assert agent.repairs.repaired["host"] == 0


async def test_repeated_flushes_do_not_delay_the_repair(agent: Agent) -> None:
    longest = 0.0
    for _ in range(8):
        repaired = agent.repairs.repaired["pod"]
        shell(agent.pods.first, FLUSHES["everything"])
        began = time.monotonic()
        await until(lambda repaired=repaired: agent.repairs.repaired["pod"] > repaired, within_s=1.0)
        longest = max(longest, time.monotonic() - began)
    print(f"longest {longest * 1000:.0f} ms")
    assert longest < 0.8


async def test_the_hosts_rules_are_restored_within_a_second(agent: Agent) -> None:
    shell(agent.pods.second, "nft flush ruleset; for p in iptables ip6tables; do $p-legacy -t nat -F; done")
    await until(agent.host_sound, within_s=1.0)
    await until(lambda: agent.repairs.settled)
    assert agent.repairs.repaired["host"] >= 1
    assert agent.repairs.repaired["pod"] == 0


async def test_unrelated_changes_of_other_programs_are_left_alone(agent: Agent) -> None:
    shell(
        agent.pods.first,
        "ip link set eth0 alias theirs; "
        "nft add table inet theirs; ip route add 192.0.2.0/24 via 10.78.0.2; ip rule add priority 7 table 7; "
        "iptables-legacy -t nat -A OUTPUT -p tcp --dport 7 -j RETURN",
    )
    await asyncio.sleep(0)
    await until(lambda: agent.repairs.settled)
    assert agent.repairs.repaired.total() == 0


async def test_the_agents_own_changes_are_not_counted_as_repairs(agent: Agent) -> None:
    captured = agent.enrolled.find("pod")
    assert captured is not None
    async with agent.turns["pod"]:
        captured.planned = PlanResult(PodPlan(dns=True, inbound=None))
        await asyncio.to_thread(agent.backend.apply, captured.sandbox, captured.plan)
    await until(lambda: agent.repairs.watches("pod", captured.plan) and agent.repairs.settled)
    assert agent.repairs.repaired.total() == 0
    shell(agent.pods.first, FLUSHES["everything"])
    await until(agent.sound, within_s=1.0)


async def test_an_unenrolled_pod_is_not_repaired(agent: Agent) -> None:
    captured = agent.enrolled.take("pod")
    assert captured is not None
    captured.close()
    shell(agent.pods.first, FLUSHES["everything"])
    await until(lambda: not agent.repairs.watches("pod"))
    await until(lambda: agent.repairs.settled)
    assert agent.repairs.repaired["pod"] == 0


async def test_a_pod_in_a_new_sandbox_is_watched_there(agent: Agent) -> None:
    with wired() as others:
        agent.pods = Wired(others.first, agent.pods.second)
        old = agent.enrolled.find("pod")
        assert old is not None
        before = agent.repairs._watched["pod"].changes
        await agent.capture("pod")
        old.close()
        await until(lambda: agent.repairs._watched["pod"].changes is not before and agent.repairs.settled)
        shell(others.first, FLUSHES["everything"])
        await until(agent.sound, within_s=1.5)


async def test_a_slow_pod_does_not_delay_the_repair_of_another(agent: Agent) -> None:
    async with agent.turns.setdefault("slow", asyncio.Lock()):
        await agent.capture("slow")
        shell(agent.pods.first, FLUSHES["everything"])
        await until(agent.sound, within_s=1.0)
        assert not agent.repairs.watches("slow")
    await until(lambda: agent.repairs.watches("slow"))


@pytest.fixture
def hundred() -> Iterator[list[Path]]:
    prefix = f"cr{uuid.uuid4().hex[:6]}"
    made = [netns.create(f"{prefix}{number}") for number in range(100)]
    for space in made:
        netns.run(space, lambda: links.set_up("lo"))
    yield made
    for space in made:
        netns.delete(space.name)


async def test_a_hundred_pods_cost_little_while_nothing_happens(agent: Agent, hundred: list[Path]) -> None:
    for space in hundred:
        await agent.capture(space.name, space)
    await until(
        lambda: all(agent.repairs.watches(uid) for uid in agent.enrolled) and agent.repairs.settled, within_s=30
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = 2.0
    await asyncio.sleep(seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"100 pods, {agent.backend.how}: {spent / seconds * 1000:.1f} ms of CPU a second")
    assert spent / seconds < 0.15, "no polling while nothing changes"
