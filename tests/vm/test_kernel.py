"""Capture, guard and tunnel on a kernel of Debian's: our own tests of them, in a machine that runs it."""

import platform

import pytest

from nodeagent.capture.iptables.restore import RestoredTables
from nodeagent.capture.nftables.pod import NftablesCapture
from tests.vm import agent, inner, kernel
from tests.vm.conftest import LIMIT_S, Session

pytestmark = [pytest.mark.root, pytest.mark.timeout(LIMIT_S + 300)]


def test_the_machine_has_another_kernel(vm: Session) -> None:
    assert vm.release.startswith(kernel.series())
    assert vm.release != platform.release()


def test_a_node_agent_that_has_no_modprobe_finds_nftables_and_the_guard(vm: Session) -> None:
    found = agent.found(vm.exchange)
    assert (found.how, found.why) == (NftablesCapture.how, "preferred")
    assert found.unguarded == ""
    assert RestoredTables.label in found.others


def test_pods_can_be_confined_to_the_registry_with_the_rights_that_the_agent_has(vm: Session) -> None:
    assert agent.found(vm.exchange).no_egress == ""


def test_the_backend_ebpf_works_from_linux_5_17_on_and_elsewhere_the_reason_is_said(vm: Session) -> None:
    found = agent.found(vm.exchange)
    assert ("Linux 5.14" in found.not_ebpf) if kernel.is_older_than(5, 17) else not found.not_ebpf


@pytest.mark.parametrize("name", inner.tests())
def test_integration_test_passes_on_the_kernel(vm: Session, name: str) -> None:
    found = vm.results.get(name, [])
    assert found, f"{name} has not been run; see {vm.exchange}"
    bad = [one for one in found if one.kind and not one.lacks]
    assert not bad, "\n\n".join(f"{one.name}: {one.kind}\n{one.text}" for one in bad)
    if all(one.lacks for one in found):
        pytest.skip(found[0].lacks)
