"""``culvert proxy-config``: what the proxy of a pod has; names, columns and flags are ``istioctl``'s."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from meshctl import session
from meshctl.output import Form, Output, Table
from meshctl.proxy_config import clusters, endpoints, listeners, log_levels, routes, secrets
from meshctl.proxy_config.dump import Item
from meshctl.proxy_config.question import Question

app = typer.Typer(help="What the proxy of a pod has been given: a waypoint's Envoy, or a pod's ztunnel.")

PodName = Annotated[str, typer.Argument(help="[TYPE/]NAME[.NAMESPACE] of a pod or deployment.", show_default=False)]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The pod's namespace.")]
File = Annotated[
    Path | None, typer.Option("--file", "-f", help="A saved page of Envoy instead: config_dump, or clusters as JSON.")
]
Verbose = Annotated[bool, typer.Option("--verbose/--no-verbose", help="One line for each route or filter chain.")]
Port = Annotated[int, typer.Option(help="Only this port.", show_default=False)]
Address = Annotated[str, typer.Option(help="Only this address.")]
Fqdn = Annotated[str, typer.Option(help="Only services with this in their names.")]
Subset = Annotated[str, typer.Option(help="Only subsets with this in their names.")]
Direction = Annotated[str, typer.Option(help="Only this direction: inbound, inbound-vip, outbound.")]
ListenerType = Annotated[str, typer.Option("--type", help="Only this type: HTTP, TCP, HTTP+TCP.")]
RouteName = Annotated[str, typer.Option(help="Only the route configuration of this name.")]
ClusterName = Annotated[str, typer.Option("--cluster", help="Only the cluster of this name.")]
Status = Annotated[str, typer.Option(help="Only endpoints in this state, as healthy.")]


def cluster(
    *,
    pod: PodName = "",
    fqdn: Fqdn = "",
    port: Port = 0,
    subset: Subset = "",
    direction: Direction = "",
    output: Output = Form.TABLE,
    namespace: Namespace = "default",
    file: File = None,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Clusters: the services and subsets that the proxy can send to."""
    question = Question("cluster", pod, namespace, output, file, system_namespace, kubeconfig, context)
    found = clusters.Filter(fqdn, port, subset, direction).chosen(question.answer("clusters"))
    question.write(clusters.table(found), found)


def listener(
    *,
    pod: PodName = "",
    address: Address = "",
    port: Port = 0,
    kind: ListenerType = "",
    verbose: Verbose = True,
    output: Output = Form.TABLE,
    namespace: Namespace = "default",
    file: File = None,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Listeners: what the proxy takes, by which match, and where it leads."""
    question = Question("listener", pod, namespace, output, file, system_namespace, kubeconfig, context)
    found = listeners.Filter(address, port, kind).chosen(question.answer("listeners"))
    question.write(listeners.table(found) if verbose else listeners.types(found), found)


def route(
    *,
    pod: PodName = "",
    name: RouteName = "",
    verbose: Verbose = True,
    output: Output = Form.TABLE,
    namespace: Namespace = "default",
    file: File = None,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Routes in the order in which they are tried, with the object that each is from."""
    question = Question("route", pod, namespace, output, file, system_namespace, kubeconfig, context)
    found = routes.Filter(name).chosen(question.answer("routes"))
    question.write(routes.table(found) if verbose else routes.counts(found), found)


def endpoint(
    *,
    pod: PodName = "",
    address: Address = "",
    port: Port = 0,
    cluster_name: ClusterName = "",
    status: Status = "",
    output: Output = Form.TABLE,
    namespace: Namespace = "default",
    file: File = None,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Endpoints of clusters, and whether the proxy sends to them."""
    question = Question("endpoint", pod, namespace, output, file, system_namespace, kubeconfig, context)
    found = endpoints.Filter(address, port, cluster_name, status).chosen(question.answer("endpoints"))
    question.write(endpoints.table(found), found)


def secret(
    *,
    pod: PodName = "",
    output: Output = Form.TABLE,
    namespace: Namespace = "default",
    file: File = None,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Certificates of the proxy."""
    question = Question("secret", pod, namespace, output, file, system_namespace, kubeconfig, context)
    found = question.answer("secrets").secrets
    question.write(secrets.table(found, datetime.now(UTC)), found)


def bootstrap(
    *,
    pod: PodName = "",
    output: Output = Form.JSON,
    namespace: Namespace = "default",
    file: File = None,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """What the proxy was started with."""
    question = Question("bootstrap", pod, namespace, output, file, system_namespace, kubeconfig, context)
    found = question.answer("bootstrap").bootstrap
    question.write(_node(found), {"bootstrap": found})


def everything(
    *,
    pod: PodName = "",
    fqdn: Fqdn = "",
    port: Port = 0,
    subset: Subset = "",
    direction: Direction = "",
    address: Address = "",
    kind: ListenerType = "",
    name: RouteName = "",
    output: Output = Form.TABLE,
    namespace: Namespace = "default",
    file: File = None,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Everything; as JSON or YAML, the whole dump."""
    question = Question("all", pod, namespace, output, file, system_namespace, kubeconfig, context)
    found = question.answer()
    tables = (
        clusters.table(clusters.Filter(fqdn, port, subset, direction).chosen(found)),
        listeners.table(listeners.Filter(address, port, kind).chosen(found)),
        routes.table(routes.Filter(name).chosen(found)),
        endpoints.table(endpoints.Filter().chosen(found)),
        secrets.table(found.secrets, datetime.now(UTC)),
    )
    question.write("\n\n".join(str(one) for one in tables if one.rows), found.document, is_envoy=found.is_envoy)


def _node(bootstrap: Item) -> Table:
    node = bootstrap.get("node") or {}
    version = (node.get("user_agent_build_version") or {}).get("version") or {}
    numbers = ".".join(str(version.get(part, 0)) for part in ("major_number", "minor_number", "patch"))
    return Table(("NODE", "CLUSTER", "ENVOY"), [(str(node.get("id", "")), str(node.get("cluster", "")), numbers)])


for _command, _names in (
    (cluster, ("cluster", "clusters", "c")),
    (listener, ("listener", "listeners", "l")),
    (route, ("route", "routes", "r")),
    (endpoint, ("endpoint", "endpoints", "ep")),
    (secret, ("secret", "secrets", "s")),
    (bootstrap, ("bootstrap", "b")),
    (everything, ("all", "a")),
    (log_levels.log, ("log", "o")),
):
    for _name in _names:
        app.command(_name, hidden=_name != _names[0])(_command)
