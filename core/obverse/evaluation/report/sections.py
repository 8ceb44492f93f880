"""What a page says about a results folder, piece by piece in HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from obverse.evaluation import analyses
from obverse.evaluation.reading import Results
from obverse.evaluation.report import rows
from obverse.evaluation.report.tables import Column, Row, facts, table

_CODEC, _QUALITY = Column("codec", "codec"), Column("quality", "quality")


def pieces(results: Results) -> dict[str, str]:
    """Every piece by its name in the template."""
    run, folder = results.run, results.folder
    return {
        "title": escape(_title(results)),
        "summary": escape(_summary(results)),
        "averages": _averages(results),
        "samples": _samples(results),
        "ratios": _ratios(folder),
        "times": _times(folder),
        "models": _models(folder),
        "metrics": _metrics(run["metrics"]),
        "skipped": _skipped(run.get("skipped", [])),
        "dataset": facts("dataset", {**run.get("dataset", {}), "protocol": run.get("protocol", {})}),
        "environment": facts("environment", run.get("environment", {})),
        "subjects": "".join(_subject(name, subject) for name, subject in results.subjects.items()),
    }


def notes(lines: Sequence[str]) -> str:
    """Lines below a section; nothing where there are none."""
    return "".join(f'<p class="note">{escape(line)}</p>' for line in lines)


def _title(results: Results) -> str:
    return str(results.run.get("dataset", {}).get("name") or results.folder.name)


def _summary(results: Results) -> str:
    images = len({sample.filename for group in results.groups for sample in group.samples})
    codecs = len({group.codec for group in results.groups})
    counts = [(images, "image"), (codecs, "codec"), (len(results.groups), "operating point")]
    told = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts]
    protocol = results.run.get("protocol", {}).get("name")
    return " · ".join([*told, f"protocol {protocol}"] if protocol else told)


def _averages(results: Results) -> str:
    columns = [_CODEC, _QUALITY, Column("images", "images"), *rows.rate_columns(), *rows.metric_columns(results)]
    return table("averages", "Means over the images", columns, rows.averages(results))


def _samples(results: Results) -> str:
    found = rows.samples(results)
    shown = found[: rows.MAX_SAMPLES]
    columns = [
        Column("filename", "image"),
        _CODEC,
        _QUALITY,
        Column("size", "pixels"),
        Column("bytes", "bytes"),
        *rows.rate_columns(),
        *rows.metric_columns(results),
        Column("encoding", "enc. [s]", decimals=3),
        Column("decoding", "dec. [s]", decimals=3),
    ]
    left = len(found) - len(shown)
    more = [f"{left:,} of {len(found):,} rows are not in this page; samples.jsonl has them all."] if left else []
    return table("samples", "Every image", columns, shown, filters=("codec", "quality")) + notes(more)


def _ratios(folder: Path) -> str:
    found = analyses.ratio_split(folder, paper=True)
    if not found:
        return notes(["No codec here has fixed-length codes to compare with."])
    columns = [
        _CODEC,
        _QUALITY,
        Column("images", "images"),
        Column("overall", "overall", hint="24-bit pictures / entropy-coded bits"),
        Column("tokenizer", "tokenizer", hint="24-bit pictures / bits of fixed-length codes"),
        Column("prior", "prior", hint="bits of fixed-length codes / entropy-coded bits"),
        Column("bpp_fixed", "bpp fixed-length", decimals=4),
        Column("bpp_coded", "bpp coded", decimals=4),
        Column("coded", "counted"),
    ]
    return table("ratios", "Compression ratio = tokenizer × prior", columns, found)


def _times(folder: Path) -> str:
    names = {
        "encoding": "encoding",
        "encoding_network": "· networks",
        "encoding_coder": "· entropy coding",
        "decoding": "decoding",
        "decoding_network": "· networks",
        "decoding_coder": "· entropy coding",
    }
    columns = [_CODEC, _QUALITY, Column("images", "images")]
    columns += [Column(key, title, decimals=3) for key, title in names.items()]
    told = notes(["The paper does not state the hardware of its times."])
    return table("times", "Mean seconds per image", columns, analyses.coding_times(folder, paper=True)) + told


def _models(folder: Path) -> str:
    found = analyses.model_table(folder, paper=True)
    millions = ("parameters", "tokenizer_parameters")
    for row in found:
        row.update({key: row[key] / 10**6 for key in millions if row.get(key) is not None})
    measured = [_with_licence(row) for row in found if row["source"] != "paper"]
    columns = [
        _CODEC,
        Column("qualities", "qualities"),
        Column("tokenizer", "tokenizer"),
        Column("modelling", "modelling"),
        Column("condition", "condition"),
        Column("scales", "scales"),
        Column("tokenizer_parameters", "tokenizer parameters [M]", decimals=1),
        Column("parameters", "parameters [M]", decimals=1),
        Column("codebook", "codebook"),
        Column("tokens", "tokens"),
        Column("licence", "licence", hint="of the weights, or of the program"),
    ]
    published = [row for row in found if row["source"] == "paper"]
    return table("models", "Models", columns, measured) + table("published", "Published models", columns, published)


def _with_licence(row: Row) -> Row:
    """Codecs without weights have no licence of weights; of those that have some, it may be unknown."""
    return {**row, "licence": "unknown"} if row.get("licence") is None and row.get("parameters") else row


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    columns = [
        Column("name", "metric"),
        Column("direction", "better"),
        Column("range", "range"),
        Column("colour_space", "measured on"),
        Column("version", "implementation"),
    ]
    found = [{"name": name, **told, "range": _range(told.get("range"))} for name, told in metrics.items()]
    return table("metrics", "Metrics", columns, found)


def _range(ends: Sequence[float | None] | None) -> str | None:
    if not ends:
        return None
    low, high = (None if end is None else f"{end:g}" for end in ends)
    return f"{low or '−∞'} to {high or '∞'}"


def _skipped(skipped: Sequence[Row]) -> str:
    if not skipped:
        return notes(["Nothing was left out."])
    return table("skipped", "Left out", [Column("what", "what"), Column("reason", "why")], skipped)


def _subject(name: str, subject: Mapping[str, Any]) -> str:
    described = json.dumps(subject.get("describe", {}), indent=2, ensure_ascii=False, sort_keys=True)
    return (
        f"<details><summary>{escape(name)} <code>{escape(str(subject.get('fingerprint')))}</code></summary>"
        f"<pre>{escape(described)}</pre></details>\n"
    )
