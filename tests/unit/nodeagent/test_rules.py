"""What plans look like in the languages of the backends: one scenario, one file for each.

``GOLDEN=write pytest`` makes the files anew; read the difference.
"""

import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from meshkit.linux.links import Route
from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.ebpf.rules import Facts, PodRules, is_supported, pod_rules
from nodeagent.capture.iptables import rules as iptables_rules
from nodeagent.capture.nftables import rules as nftables_rules
from nodeagent.capture.plan import Mode, PodPlan

GOLDEN = Path(__file__).parent.parent.parent / "golden"
PODS = {
    "capture": PodPlan(),
    "gateway": plan_pod({"ambient.istio.io/bypass-inbound-capture": "true"}).plan,
    "dns": plan_pod({"ambient.istio.io/dns-capture": "true"}).plan,
    "virtual": plan_pod({"istio.io/reroute-virtual-interfaces": "k6t-eth0,docker0"}).plan,
    "excluded": plan_pod(
        {
            "ambient.istio.io/dns-capture": "true",
            "traffic.sidecar.istio.io/excludeInboundPorts": "9100, 22",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
            "traffic.sidecar.istio.io/excludeOutboundIPRanges": "192.0.2.0/24,2001:db8::/32,169.254.169.254",
            "traffic.sidecar.istio.io/excludeInterfaces": "net1",
        }
    ).plan,
    "included": plan_pod(
        {
            "traffic.sidecar.istio.io/includeInboundPorts": "8080,8443",
            "traffic.sidecar.istio.io/includeOutboundPorts": "443",
            "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8,fd00::/8",
        }
    ).plan,
    "nothing-included": plan_pod(
        {
            "traffic.sidecar.istio.io/includeInboundPorts": "",
            "traffic.sidecar.istio.io/includeOutboundIPRanges": "",
        }
    ).plan,
    "drain": PodPlan(mode=Mode.DRAIN),
    "none": PodPlan(mode=Mode.NONE),
}
PROBED = ["10.0.0.2", "fd00::2", "10.0.0.1"]


def iptables_text(tables: dict[int, dict[str, iptables_rules.Table]]) -> str:
    return "".join(
        f"# IPv{version}\n{iptables_rules.text(name, table)}"
        for version, by_name in tables.items()
        for name, table in by_name.items()
    )


NFTABLES = {f"{name}.nft": nftables_rules.pod_rules(plan) for name, plan in PODS.items()} | {
    "probes.nft": nftables_rules.probe_rules(PROBED),
    "capture-fresh.nft": nftables_rules.pod_rules(PodPlan(), fresh=True),
    "probes-change.nft": nftables_rules.probe_changes(["10.0.0.3", "fd00::3"], ["10.0.0.1"]),
    "probes-empty.nft": nftables_rules.probe_rules([]),
}
IPTABLES = {
    f"{name}.rules": iptables_text({version: iptables_rules.pod_tables(plan, version) for version in (4, 6)})
    for name, plan in PODS.items()
} | {
    "probes.rules": iptables_text({version: iptables_rules.probe_tables(version, None) for version in (4, 6)}),
    "probes-without-sets.rules": iptables_text(
        {version: iptables_rules.probe_tables(version, PROBED) for version in (4, 6)}
    ),
}
FACTS = Facts(
    addresses=(ip_address("10.0.0.2"), ip_address("fd00::2")),
    local=(ip_address("127.0.0.1"), ip_address("::1"), ip_address("10.0.0.2"), ip_address("fd00::2")),
    links={"lo": 1, "eth0": 2, "net1": 3},
    routes=(
        Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), 2),
        Route(ip_network("172.16.0.0/12"), None, 3),
        Route(ip_network("172.16.9.0/24"), None, 2),
    ),
)


def ebpf_text(rules: PodRules) -> str:
    lines = [
        f"flags {' '.join(rules.flags)}",
        f"addresses {' '.join(map(str, rules.addresses))}",
        f"excluded links {' '.join(map(str, rules.excluded_links))}",
        *(f"port {port} {on}" for port, on in rules.ports),
        *(f"range {network} {' '.join(flags)}" for network, flags in rules.ranges),
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


EBPF = {f"{name}.txt": ebpf_text(pod_rules(plan, FACTS)) for name, plan in PODS.items() if is_supported(plan)}


@pytest.mark.parametrize(
    ("file", "text"),
    [pytest.param(GOLDEN / "nftables" / name, text, id=name) for name, text in NFTABLES.items()]
    + [pytest.param(GOLDEN / "iptables" / name, text, id=name) for name, text in IPTABLES.items()]
    + [pytest.param(GOLDEN / "ebpf" / name, text, id=name) for name, text in EBPF.items()],
)
def test_rules_are_as_agreed(file: Path, text: str) -> None:
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


def test_nothing_new_is_redirected_while_draining() -> None:
    assert EBPF["drain.txt"].startswith("flags\n")
    assert "redirect" not in NFTABLES["drain.nft"]
    assert "type nat hook" in NFTABLES["drain.nft"], (
        "the last NAT chain must not be removed while open connections depend on it"
    )
    assert "REDIRECT" not in IPTABLES["drain.rules"]
    assert "restore-mark" in IPTABLES["drain.rules"]


@pytest.mark.parametrize("scenario", PODS)
def test_only_first_packets_of_connections_are_redirected(scenario: str) -> None:
    for line in NFTABLES[f"{scenario}.nft"].splitlines():
        if "redirect" in line and "udp dport" not in line:
            assert "tcp flags & (fin | syn | rst | ack) == syn" in line
    for line in IPTABLES[f"{scenario}.rules"].splitlines():
        if "REDIRECT" in line and "-p udp" not in line:
            assert "--tcp-flags FIN,SYN,RST,ACK SYN" in line


@pytest.mark.parametrize("scenario", PODS)
def test_the_tunnels_own_packets_are_never_redirected_on_their_way_out(scenario: str) -> None:
    for line in NFTABLES[f"{scenario}.nft"].partition("chain nat_output")[2].splitlines():
        assert "redirect" not in line or "meta mark & 0xfff != 0x539" in line
    for line in IPTABLES[f"{scenario}.rules"].splitlines():
        if line.startswith("-A CULVERT_OUTPUT") and "REDIRECT" in line:
            assert "-m mark ! --mark 0x539/0xfff" in line
