"""Results as tables for people, or as JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

json_option = click.option('--json', 'as_json', is_flag=True, help='Print JSON, for scripts.')


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table that fits the terminal; in a pipe, no cell is wrapped."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow='fold')
    for row in rows:
        table.add_row(*map(_shown, row))
    _print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints names and values in two columns."""
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f'{name.ljust(width)}  {_shown(value)}')


def _print(table: Table) -> None:
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        unbounded = console.options.update(max_width=10_000)
        console.width = console.measure(table, options=unbounded).maximum
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return '–'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {number}' for name, number in value.items())
    if isinstance(value, tuple | list):
        return ', '.join(map(str, value))
    return str(value)
