"""HTML tables that the page's script can sort."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: of the rows' values.
        title: shown above them.
        decimals: of its numbers; by default as many as give most of them four digits.
        hint: explains the title where the mouse rests on it.
    """

    key: str
    title: str
    decimals: int | None = None
    hint: str = ""


def table(
    name: str, caption: str, columns: Sequence[Column], rows: Sequence[Row], *, filters: Sequence[str] = ()
) -> str:
    """A table; columns without any value are left out.

    Args:
        name: identifies it in the page.
        caption: says what it shows, for readers of the screen.
        columns: from the left; the first is the rows' heading.
        rows: values by the columns' keys: text, numbers or None. Rows whose `source` is "paper" are marked so,
            and those that are `derived` from it too.
        filters: keys by which the script lets rows be chosen.
    """
    shown = [column for column in columns if not rows or any(row.get(column.key) is not None for row in rows)]
    numeric = {column.key: all(isinstance(row.get(column.key), int | float | None) for row in rows) for column in shown}
    decimals = {
        column.key: _decimals([row.get(column.key) for row in rows]) if column.decimals is None else column.decimals
        for column in shown
        if numeric[column.key]
    }
    head = "".join(_heading(column, numeric[column.key]) for column in shown)
    lines = []
    for row in rows:
        cells = [_cell(row.get(column.key), decimals.get(column.key)) for column in shown]
        data = "".join(f' data-{key}="{escape(str(row[key]))}"' for key in filters)
        first = f'<th scope="row">{escape(_text(row.get(shown[0].key)))}{_badge(row)}</th>'
        lines.append(f"<tr{data}>{first}{''.join(cells[1:])}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">'
        f'<table id="{name}" class="sortable"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def facts(name: str, values: Mapping[str, Any]) -> str:
    """Names and values, nested ones as `outer.inner`."""
    lines = [f"<dt>{escape(key)}</dt><dd>{escape(_text(value))}</dd>" for key, value in _flat(values)]
    return f'<dl id="{name}">{"".join(lines)}</dl>'


def _flat(values: Mapping[str, Any], outer: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{outer}{key}.")
        else:
            found.append((f"{outer}{key}", value))
    return found


def _heading(column: Column, numeric: bool) -> str:
    hint = f' title="{escape(column.hint)}"' if column.hint else ""
    kind = ' class="number"' if numeric else ""
    return f'<th scope="col" aria-sort="none"{kind}{hint}>{escape(column.title)}</th>'


def _badge(row: Row) -> str:
    if row.get("source") != "paper":
        return ""
    return f' <span class="badge">source: paper{", derived" if row.get("derived") else ""}</span>'


def _cell(value: Any, decimals: int | None) -> str:
    if decimals is None or value is None:
        kind = "" if decimals is None else ' class="number"'
        return f"<td{kind}>{escape(_text(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{decimals}f}"
    return f'<td class="number" data-value="{value!r}">{text}</td>'


def _text(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _decimals(values: Sequence[Any]) -> int:
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 0
    return min(6, max(0, 3 - math.floor(math.log10(statistics.median(sizes)))))
