"""Settings: one declarative class per process, read from flags and the environment; help and reference come from it."""

import sys
from typing import Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from meshkit.log import Format, Level


class ProcessSettings(BaseSettings):
    """What every process takes. A flag wins over the environment; ``--log-level`` and ``LOG_LEVEL`` are one setting."""

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=False,
    )

    log_level: Level = Field(default=Level.INFO, description="How much is logged.")
    log_format: Format = Field(default=Format.TEXT, description="Form of log lines.")

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> Self:
        """Read flags and environment; a wrong value ends the process with status 2 and one line per fault."""
        try:
            return CliApp.run(cls, cli_args=sys.argv[1:] if arguments is None else arguments)
        except ValidationError as error:
            for fault in error.errors():
                name = "-".join(str(part) for part in fault["loc"]).replace("_", "-")
                print(f"--{name}: {fault['msg']} (got {fault.get('input')!r})", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from None
