"""Runs Envoy: starts it, starts it again after a crash, ends it.

Its output is the container's. It dies with this process, so that a container is never left with an Envoy without
configuration and certificates. After more than a few crashes in a minute this process ends, too: Kubernetes shows it.
"""

import asyncio
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from meshapi import names
from meshkit import process
from meshkit.linux import syscalls
from meshkit.log import logger
from meshproxy.supervisor import Crashes
from waypoint.settings import WaypointSettings

_log = logger("waypoint.envoy")
_PAUSE_S: Final = 0.1
_KILL_AFTER_S: Final = 2.0
_LOG_FLUSH_MS: Final = 1000
"""How late access logs may be written, as with Istio's agent; Envoy's own 10 seconds are long for one who watches."""


class Envoy:
    """One Envoy at a time. Run ``run`` as a task.

    Args:
        settings: of the host.
        bootstrap: its configuration.
        crashes: whether one more crash is worth one more start.
    """

    def __init__(self, settings: WaypointSettings, bootstrap: Mapping[str, Any], crashes: Crashes) -> None:
        self._settings = settings
        self._bootstrap = bootstrap
        self._crashes = crashes
        self._process: asyncio.subprocess.Process | None = None
        self._is_ending = False

    @property
    def crashes(self) -> int:
        """How often it has crashed."""
        return self._crashes.count

    def write(self) -> Path:
        """Write the bootstrap; return the file. Raises ``OSError``."""
        file = self._settings.under_root(names.ENVOY_BOOTSTRAP)
        file.write_text(json.dumps(self._bootstrap, indent=2))
        return file

    async def run(self) -> None:
        """Run Envoy until ``end``.

        Raises:
            OSError: the program or a folder is missing.
            Fatal: it crashes too often.
        """
        file = self.write()
        while not self._is_ending:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments(file),
                cwd=self._settings.root,
                # As a session of its own: a signal to the terminal's group is the host's to handle.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            _log.info("Envoy started", pid=self._process.pid)
            status = await self._process.wait()
            if self._is_ending:
                return
            if not self._crashes.again():
                raise process.Fatal(f"Envoy ended with status {status}, too often to start it again")
            _log.error("Envoy ended, starting it again", status=status, crashes=self._crashes.count)
            await asyncio.sleep(_PAUSE_S)

    async def end(self) -> None:
        """End Envoy; what is still open is cut."""
        self._is_ending = True
        running = self._process
        if running is None or running.returncode is not None:
            return
        running.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_KILL_AFTER_S):
                await running.wait()
        except TimeoutError:
            running.kill()
            await running.wait()

    def _arguments(self, file: Path) -> list[str]:
        settings = self._settings
        arguments = [settings.envoy, "-c", str(file.absolute()), "--use-dynamic-base-id"]
        arguments += ["--log-level", settings.proxy_log_level]
        if settings.proxy_component_log_level:
            arguments += ["--component-log-level", settings.proxy_component_log_level]
        if settings.concurrency:
            arguments += ["--concurrency", str(settings.concurrency)]
        arguments += ["--file-flush-interval-msec", str(_LOG_FLUSH_MS)]
        # GOAWAY at once instead of over the whole time: clients are to move while this pod still serves.
        arguments += ["--drain-time-s", str(round(settings.minimum_drain_s)), "--drain-strategy", "immediate"]
        return arguments


def _die_with_parent() -> None:
    syscalls.die_with_parent(signal.SIGKILL)
