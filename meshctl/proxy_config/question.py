"""One question to a pod's proxy, and how its answer is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from meshctl import session
from meshctl.output import Form, Table, show
from meshctl.proxy_config import sources
from meshctl.proxy_config.dump import Dump
from meshctl.proxy_config.sources import Proxy
from meshctl.proxy_config.spelling import camel_case
from meshctl.session import CommandError

_ZTUNNELS: Final = ("clusters", "endpoints", "secrets")
"""What a ztunnel has, too."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which proxy is asked, and how the answer is written."""

    command: str
    pod: str
    namespace: str
    output: Form
    file: Path | None
    system_namespace: str
    kubeconfig: Path | None
    context: str | None

    def answer(self, part: str = "") -> Dump:
        """Return what the proxy has; what goes wrong ends the command.

        Args:
            part: what is looked for; a ztunnel does not have everything.
        """
        try:
            if self.file is not None:
                return sources.from_file(self.file)
            if not self.pod:
                raise CommandError("name a pod, or give --file")
            wanted = sources.target(self.pod, self.namespace)
        except CommandError as error:
            session.fail(self._title, str(error))
        found, proxy = session.run(
            self._title,
            lambda client: sources.from_cluster(client, wanted, self.system_namespace),
            kubeconfig=self.kubeconfig,
            context=self.context,
        )
        if part and proxy is Proxy.ZTUNNEL and part not in _ZTUNNELS:
            session.fail(self._title, f"pod {self.pod} has no Envoy, so no {part}; its ztunnel has {_listed()}")
        return found

    def write(self, table: Table | str, document: Any, *, is_envoy: bool = True) -> None:
        """Write the answer; if there is nothing in it, say so and end with status 1.

        Args:
            table: for people.
            document: for programs.
            is_envoy: whether names of fields in the document are as Envoy writes them.
        """
        is_for_programs = self.output in {Form.JSON, Form.YAML}
        if not document if is_for_programs else isinstance(table, Table) and not table.rows:
            session.fail(self._title, "nothing found")
        show(self.output, table, camel_case(document) if is_envoy else document)

    @property
    def _title(self) -> str:
        return f"proxy-config {self.command}"


def _listed() -> str:
    return f"{', '.join(_ZTUNNELS[:-1])} and {_ZTUNNELS[-1]}"
