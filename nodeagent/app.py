"""Wiring of the node agent, and its life from start to signal."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final

from aiohttp import web

from meshapi import names
from meshapi.analysis.enrolment import ZTUNNEL_APPS, EnrolmentRules, SidecarInjection
from meshkit import admin, log, metrics, process
from meshkit.kube import config as kube_config
from meshkit.kube import errors as kube_errors
from meshkit.kube import kinds, objects
from meshkit.kube.client import Client
from meshkit.linux import memory
from meshkit.secrets import roots
from meshkit.secrets.ca_client import CaClient
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.revocation import RevocationFile
from meshkit.tasks import Background, background
from meshkit.xds import credentials, sds, serving
from meshkit.xds.client import tls_channel
from nodeagent import debug, telemetry
from nodeagent.capture.choice import Choice, choose
from nodeagent.capture.host_probes import ProbeExemption
from nodeagent.capture.repair import Repairs
from nodeagent.cni import chain
from nodeagent.cni.install import Installer, Places
from nodeagent.cni.requests import PluginRequests
from nodeagent.discovery import namespaces
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.discovery.finder import NamespaceFinder
from nodeagent.discovery.pods import parse_pod
from nodeagent.discovery.watch import PodWatch
from nodeagent.enrolment.captured import Enrolled
from nodeagent.enrolment.controller import Controller, Node
from nodeagent.enrolment.draining import Draining
from nodeagent.enrolment.locks import PodLocks
from nodeagent.enrolment.state import PodStates
from nodeagent.enrolment.takeover import Takeover
from nodeagent.enrolment.transitions import Parts
from nodeagent.settings import NodeAgentSettings
from nodeagent.zds.server import ZdsServer
from nodeagent.ztunnel_drain import DrainingZtunnels

_log = log.logger("nodeagent")

_UNENROL_TIMEOUT_S: Final = 10.0
"""Twice this must fit into the pod's termination grace period (30 s in the chart)."""


class NodeAgent:
    """One running node agent. Construct inside a loop, then ``run``."""

    def __init__(self, settings: NodeAgentSettings, client: Client, choice: Choice) -> None:
        self._settings = settings
        self._client = client
        self._ca = CaClient(
            tls_channel(settings.ca_address, settings.ca_root, settings.ca_server_name or None),
            partial(credentials.token_metadata, settings.token_path, settings.cluster_id),
            validity_s=settings.certificate_ttl_s,
        )
        self._secrets = SecretManager(self._ca)
        self._revocations = RevocationFile(settings.crl_path, self._secrets.revoke)
        self._enrolled = Enrolled()
        self._ebpf, self._egress = choice.ebpf, choice.egress
        self._zds = ZdsServer(settings.zds_socket, self._enrolled, self._greet)
        self._watch = PodWatch(client, settings.node_name)
        self._capture = choice.backend.pods
        self._guard = choice.guard
        self._exemption = ProbeExemption(choice.backend.probes, settings.host_netns, self._enrolled.addresses)
        self._states, locks = PodStates(), PodLocks()
        self._controller = Controller(
            Node(
                trust_domain=settings.trust_domain,
                rules=EnrolmentRules(
                    frozenset(settings.exclude_namespaces),
                    settings.pod_namespace,
                    injection_enrols=settings.sidecar_injection_label is SidecarInjection.AMBIENT,
                ),
                dns_capture=settings.ambient_dns_capture,
            ),
            Parts(
                enrolled=self._enrolled,
                states=self._states,
                capture=self._capture,
                takeover=Takeover(choice.backend, choice.others, settings.host_netns),
                locks=locks,
                draining=Draining(self._capture, self._states, locks),
                exemption=self._exemption,
                zds=self._zds,
                certificates=self._secrets,
                announce=self._announce,
            ),
            pods=self._watch,
            namespace_labels=self._watch.namespace_labels,
            finder=NamespaceFinder(),
        )
        self._draining_ztunnels = DrainingZtunnels(client, self._watch, settings.pod_namespace)
        self._repairs = Repairs(self._capture, self._enrolled, self._exemption, locks.of)
        self._requests = PluginRequests(
            self._controller, self._watch.named, self._fetch_pod, self._watch.knows_namespace
        )
        self._installer = _installer(settings)
        self._adopted = False

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set. Captured pods stay captured.

        Raises:
            OSError: a port or socket cannot be bound.
        """
        async with AsyncExitStack() as stack, background() as tasks:
            stack.push_async_callback(self._ca.close)
            stack.push_async_callback(self._secrets.close)
            await self._open_endpoints(stack)
            tasks.start(self._watch.run(), self._begin(tasks, stack))
            await stop.wait()
            await self._uninstall_if_last()

    def pending(self) -> list[str]:
        """Return what readiness waits for."""
        waiting = [] if self._adopted else ["pods of the node"]
        if not self._zds.connected:
            waiting.append("ztunnel")
        if self._installer is not None and not self._installer.installed:
            waiting.append("CNI plugin")
        return waiting

    async def _begin(self, tasks: Background, stack: AsyncExitStack) -> None:
        """Take over captured pods before serving: the first ZDS snapshot must be complete."""
        await self._watch.wait_synced()
        self._watch.on_change(self._observe)
        self._watch.on_change(self._draining_ztunnels.notice)
        tasks.start(self._draining_ztunnels.run())
        await asyncio.to_thread(self._greet_running)
        await self._controller.adopt()
        self._adopted = True
        await self._revocations.look()  # roots are never served without the revocation lists
        secrets = sds.SecretDiscovery(self._secrets)
        await stack.enter_async_context(serving.serve_unix(self._settings.sds_socket, [secrets], mode=0o600))
        await stack.enter_async_context(self._requests.serve(self._settings.cni_socket))
        tasks.start(
            self._zds.run(),
            self._controller.run(),
            self._repairs.run(),
            self._revocations.follow(),
            roots.follow(self._settings.ca_root, self._secrets.renew_all),
        )
        await self._zds.wait_connected()
        self._watch.on_change(self._controller.notice)
        if self._installer is not None:
            tasks.start(self._installer.run())
        memory.settle()

    def _greet(self, pid: int) -> None:
        """Attach the tunnel's hooks to a ztunnel, and let its packets leave pods. Raises ``OSError``."""
        if self._ebpf is not None:
            self._ebpf.greet(pid)
        if self._egress is not None:
            self._egress.greet(pid)

    def _greet_running(self) -> None:
        """Do so for ztunnels that run, which connect only after their pods have been taken over."""
        own = self._settings.pod_namespace
        ztunnels = {
            pod.uid
            for pod in self._watch.values()
            if pod.namespace == own and pod.labels.get(names.APP_LABEL) in ZTUNNEL_APPS
        }
        for pid in namespaces.processes(ztunnels):
            with suppress(OSError):  # it has ended meanwhile; one that connects later is greeted then
                self._greet(pid)

    async def _open_endpoints(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        state = telemetry.Parts(
            controller=self._controller, enrolled=self._enrolled, zds=self._zds, secrets=self._secrets,
            requests=self._requests, installer=self._installer, repairs=self._repairs, revocations=self._revocations,
            guard=self._guard, egress=self._egress, ebpf=self._ebpf,
        )  # fmt: skip
        registry = metrics.registry("cni", telemetry.source(state))
        pages = {
            "GET /metrics": admin.metrics(registry),
            # The pods of a node are nothing for other nodes' pods.
            "GET /debug/pods": admin.loopback_only(admin.json_page(self._pods_page)),
        }
        await stack.enter_async_context(admin.serve([(settings.metrics_address, settings.metrics_port)], pages))

        async def alive(_: web.Request) -> web.StreamResponse:
            return web.Response(text="ok\n")

        health = {"GET /readyz": admin.readiness(self.pending), "GET /healthz": alive}
        await stack.enter_async_context(admin.serve([(settings.metrics_address, settings.health_port)], health))

    def _pods_page(self) -> str:
        return debug.pods_page(
            self._watch.values(),
            self._states.observe,
            self._controller.enrolment,
            backend=self._capture.name,
            held=self._enrolled.held,
        )

    def _observe(self, uid: str) -> None:
        """Begin the record of a new pod at once: pods are reconciled only after a ztunnel has connected."""
        if uid in self._watch:
            self._states.observe(uid)

    async def _announce(self, pod: PodInfo, value: str | None) -> None:
        """Set or remove the redirection annotation, which the control plane reads."""
        annotations = {names.REDIRECTION_ANNOTATION: value}
        try:
            await objects.annotate_through_status(self._client, kinds.POD, pod.name, pod.namespace, annotations)
        except kube_errors.NotFound:
            return  # the pod was deleted meanwhile
        except kube_errors.Forbidden as error:
            if not self._controller.uninstalling:  # else the uninstallation has removed our rights
                raise OSError(f"cannot annotate pod {pod.key}: {error}") from error
        except kube_errors.KubeError as error:
            raise OSError(f"cannot annotate pod {pod.key}: {error}") from error

    async def _fetch_pod(self, namespace: str, name: str) -> PodInfo | None:
        try:
            found = await self._client.find(kinds.POD, name, namespace)
        except kube_errors.KubeError as error:
            raise OSError(f"cannot read pod {namespace}/{name} from the API server: {error}") from error
        return None if found is None else parse_pod(found)

    async def _uninstall_if_last(self) -> None:
        """On shutdown, remove everything if the DaemonSet is gone. Otherwise a successor comes: leave all in place."""
        if await self._successor_expected():
            return
        _log.info("DaemonSet deleted; removing capture from this node")
        with suppress(OSError):
            if self._installer is not None:
                await self._installer.withdraw()
        with suppress(OSError):
            await self._controller.unenrol_all(_UNENROL_TIMEOUT_S)
        with suppress(OSError):
            await self._exemption.remove()
        if self._ebpf is not None:
            with suppress(OSError):
                await asyncio.to_thread(self._ebpf.node.uninstall)
        if self._egress is not None:
            await asyncio.to_thread(self._egress.uninstall)

    async def _successor_expected(self) -> bool:
        """Return whether the DaemonSet still exists. An unknown answer counts as yes, withdrawn rights as no."""
        try:
            own = await self._client.find(kinds.DAEMON_SET, names.NODE_AGENT_DAEMON_SET, self._settings.pod_namespace)
        except kube_errors.Forbidden:
            return False
        except kube_errors.KubeError:
            return True
        return own is not None and not own["metadata"].get("deletionTimestamp")


def _installer(settings: NodeAgentSettings) -> Installer | None:
    if settings.cni_plugin is None:
        return None
    entry = chain.plugin_entry(agent_socket=str(settings.cni_socket), agent_namespace=settings.pod_namespace)
    return Installer(Places(settings.cni_plugin, settings.cni_bin_dir, settings.cni_net_dir), entry)


def main() -> None:
    """Entry point of ``culvert-nodeagent``."""
    settings = NodeAgentSettings.from_command_line()
    log.configure(level=settings.log_level, log_format=settings.log_format)
    if os.geteuid() != 0:
        _log.error("the node agent needs root, CAP_NET_ADMIN and CAP_SYS_ADMIN")
        sys.exit(process.CANNOT_RUN)
    sys.exit(process.run("nodeagent", partial(_run, settings), expected=(OSError, kube_errors.KubeError)))


async def _run(settings: NodeAgentSettings, stop: asyncio.Event) -> None:
    choice = await asyncio.to_thread(
        choose,
        settings.capture_backend,
        settings.xtables_lock,
        guard=settings.capture_guard,
        pins=settings.bpf_pins,
        direct_limit=names.DIRECT_LIMIT if settings.direct_connections else 0,
        host=settings.host_netns,
    )
    _log.info("capture backend chosen", backend=choice.backend.pods.name, how=choice.backend.pods.how, why=choice.why)
    if settings.capture_guard and choice.unguarded:
        _log.warning(
            "captured pods have no guard: if another process flushes their rules, traffic leaves in plain text",
            reason=choice.unguarded,
        )
    access = await kube_config.load(settings.kubeconfig)
    async with Client(access) as client:
        await NodeAgent(settings, client, choice).run(stop)
