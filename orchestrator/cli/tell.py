"""How results and failures are told: tables for people, JSON, YAML and TSV for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from orchestrator.model.codes import CODES, FAILED, shown


@dataclass(eq=False)
class Failure(Exception):
    """What the command could not do; `code` decides the exit code and the remedy where none is given."""

    code: str
    message: str
    why: str = ""
    fix: str = ""
    exit: int | None = None


def complain(fault: Failure) -> int:
    """Say what happened, why, and what to do; the exit code."""
    known = CODES.get(fault.code)
    click.echo(shown(fault.code, fault.message, fault.why, fault.fix), err=True)
    if fault.exit is not None:
        return fault.exit
    return known.exit if known else FAILED


def say(form: str, data: Any, table: str, rows: Iterable[Sequence[Any]] = ()) -> None:
    """Print `data` in the form that was asked; `table` for people, `rows` for tsv."""
    match form:
        case "json":
            click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        case "yaml":
            import yaml

            click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
        case "tsv":
            for row in rows:
                click.echo("\t".join(_cell(cell) for cell in row))
        case _:
            click.echo(table)


def _cell(value: Any) -> str:
    """One cell of a tsv line: a tab or line break inside would make two of it."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return str(value).replace("\t", " ").replace("\n", " ")


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Lines with the cells of each column below one another; colours do not count as width."""
    if not rows:
        return []
    widths = [max(_width(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        indent
        + "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _width(cell: str) -> int:
    return len(click.unstyle(cell))
