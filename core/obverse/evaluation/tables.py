"""Tables in Markdown, from lists of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Records as a Markdown table.

    Args:
        rows: one record a line.
        columns: headings by key; a heading may end in `|` and a format specification, as `bpp|.4f`.
    """
    heads = {key: heading.partition("|") for key, heading in columns.items()}
    lines = [[heading for heading, _, _ in heads.values()]]
    lines.append([("---:" if form else "---") for _, _, form in heads.values()])
    lines += [[shown(row.get(key), form) for key, (_, _, form) in heads.items()] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def shown(value: Any, form: str = "") -> str:
    """A cell: `-` for what is unknown, millions for the format `M`."""
    if value is None:
        return "-"
    if form == "M":
        return f"{value / 1e6:,.1f} M"
    return format(value, form) if isinstance(value, (int, float)) else str(value).replace("|", "\\|")
