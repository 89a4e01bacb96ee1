"""``culvert bug-report``: everything that helps to find a fault, in one archive without secrets."""

import time
from pathlib import Path
from typing import Annotated

import typer

from meshctl import session
from meshctl.report.archive import Report
from meshctl.report.collecting import collect


def bug_report(
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The archive; must not exist.")] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest time in all, in seconds.", min=1)] = 120.0,
    namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Collect versions, objects, logs, configuration dumps and proxy status; keys, tokens and passwords are removed."""
    path = output or Path(f"culvert-bug-report-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    if path.exists():
        session.fail("bug-report", f"{path} exists; give another name with --output")
    report = Report()
    session.run(
        "bug-report",
        lambda client: collect(client, namespace, report, piece_s=min(30.0, timeout_s), total_s=timeout_s),
        kubeconfig=kubeconfig,
        context=context,
    )
    try:
        report.write(path)
    except OSError as error:
        session.fail("bug-report", f"{path} cannot be written: {error.strerror}")
    for failure in report.failures:
        session.say(f"not in the report: {failure}")
    typer.echo(str(path))
