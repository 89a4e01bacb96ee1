"""How results are written: aligned columns for people, JSON and YAML for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml


class Form(StrEnum):
    """Form of a result."""

    TABLE = "table"
    SHORT = "short"
    """``istioctl``'s word for the table."""
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Form, typer.Option("--output", "-o", help="Form of the result.")]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[number]) for line in lines) for number in range(len(self.columns))]
        padded = ("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join(line.rstrip() for line in padded)


def show(form: Form, table: Table | str, document: Any) -> None:
    """Write a result to standard output: ``table`` for people, ``document`` for programs."""
    match form:
        case Form.TABLE | Form.SHORT:
            typer.echo(str(table))
        case Form.JSON:
            typer.echo(json.dumps(document, indent=2))
        case Form.YAML:
            typer.echo(yaml.safe_dump(document, sort_keys=False).rstrip())
