"""Codecs compared on a dataset: measured, analysed, and set beside published numbers.

What `obverse eval`, `obverse analyse` and `obverse report` do, for codecs that a recipe names. Codecs whose weights or
programs are missing, and metrics that lack a package, are left out and named; nothing stands in for them. A study that
was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from obverse.config import CodecConfig, load_config
from obverse.errors import ConfigError, PluginError, UnknownNameError, UnsupportedInputError, WeightsError
from obverse.experiments.recipe import Experiment, Setting, section, weights_in

if TYPE_CHECKING:
    from obverse.evaluation.interfaces import Subject
    from obverse.evaluation.runner import Chosen, Runner, Skipped

ANALYSES, REPORT = "analyses", "report.html"
"""Names of the folder of figures and tables, and of the page, in the folder of the results."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A codec of a study.

    Attributes:
        codec: name of a codec or an anchor, or path of a YAML file.
        qualities: settings; none for all it has.
        weights: files, relative to the recipe; none for those of the setting, or the codec's own.
        numerics: numerics mode; None for the codec's own.
    """

    codec: str
    qualities: tuple[int | float | str, ...] = ()
    weights: tuple[str, ...] = ()
    numerics: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The keys of a recipe beside `kind`.

    Attributes:
        dataset: folder of images.
        codecs: keys of `Entry`.
        metrics: names.
        metric_options: keyword arguments by metric.
        protocol: which part of each image is coded.
        limit: only the first so many images by name.
        keep_pictures: `none`, `some` or `all`.
        strip_bpp: strips of pictures show each codec at the rate nearest to this; None: at all.
        paper: published numbers stand beside those that are measured.
        source: where the experiment is described.
    """

    dataset: str
    codecs: tuple[dict[str, Any], ...]
    metrics: tuple[str, ...] = ("psnr-rgb",)
    metric_options: dict[str, Any] | None = None
    protocol: str = "vfm-codec"
    limit: int | None = None
    keep_pictures: str = "some"
    strip_bpp: float | None = None
    paper: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Study(Experiment):
    """Codecs over a dataset.

    Attributes:
        name: of the recipe.
        base: folder that the recipe's paths are relative to; the dataset is relative to the current one.
        plan: keys of the recipe.
        entries: codecs.
    """

    name: str
    base: Path
    plan: Plan
    entries: tuple[Entry, ...]

    @classmethod
    def parse(cls, body: Mapping[str, Any], path: Path) -> Study:
        """From the keys of a recipe.

        Raises:
            ConfigError: one does not exist, or has a wrong value.
        """
        from obverse.evaluation.protocols import protocol
        from obverse.evaluation.runner import Keep

        plan = section(Plan, body, str(path))
        if not plan.codecs or not plan.metrics:
            raise ConfigError(f"{path}: codecs and metrics need at least one entry each")
        if plan.keep_pictures not in get_args(Keep):
            raise ConfigError(f"{path}: keep_pictures takes {', '.join(get_args(Keep))}, not {plan.keep_pictures!r}")
        if plan.limit is not None and plan.limit < 1:
            raise ConfigError(f"{path}: limit is at least 1, not {plan.limit}")
        unknown = sorted(set(plan.metric_options or {}) - set(plan.metrics))
        if unknown:
            raise ConfigError(f"{path}: metric_options has {unknown[0]!r}, which metrics does not name")
        protocol(plan.protocol)
        entries = tuple(section(Entry, entry, f"{path}, codec {n}") for n, entry in enumerate(plan.codecs, 1))
        names = [entry.codec for entry in entries]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"{path}: codec {twice[0]!r} is named twice; list its qualities together")
        return cls(name=path.stem, base=path.parent, plan=plan, entries=entries)

    @property
    def steps(self) -> int:
        return 1 + len(self.plan.metrics) + len(self.entries)  # the images are looked at first

    def outputs(self, folder: Path) -> list[Path]:
        return [folder / "run.json", folder / ANALYSES / "tables.md", folder / REPORT]

    def to_dict(self) -> dict[str, Any]:
        defaults = asdict(Entry(codec=""))
        codecs = [{key: value for key, value in asdict(one).items() if value != defaults[key]} for one in self.entries]
        told: dict[str, Any] = json.loads(json.dumps({"kind": "study", **asdict(self.plan), "codecs": codecs}))
        return told

    def run(self, setting: Setting) -> Iterator[str]:
        from obverse.evaluation import figures
        from obverse.evaluation.dataset import find_images
        from obverse.evaluation.protocols import protocol
        from obverse.evaluation.runner import Runner, Skipped

        figures.check_installed()
        dataset = find_images(Path(self.plan.dataset), self.plan.limit)
        metrics: list[Chosen] = []
        subjects: list[tuple[Subject, Sequence[Any]]] = []
        left_out: list[Skipped] = []
        for name in self.plan.metrics:
            try:
                metrics.append(self._metric(name))
                yield ""
            except (UnknownNameError, PluginError) as error:
                left_out.append(Skipped(f"metric {name}", str(error)))
                yield _lines(left_out[-1:])
        for entry in self.entries:
            try:
                subjects.append(self._subject(entry, setting))
            except (UnknownNameError, PluginError, WeightsError) as error:
                left_out.append(Skipped(entry.codec, str(error)))
                yield _lines(left_out[-1:])
        if not subjects or not metrics:
            raise UnsupportedInputError(f"{self.name}: nothing can be measured: {_lines(left_out[:1])}")
        runner = Runner(
            folder=setting.folder,
            dataset=dataset,
            protocol=protocol(self.plan.protocol),
            subjects=subjects,
            metrics=metrics,
            keep=self.plan.keep_pictures,  # type: ignore[arg-type]  # checked by `parse`
        )
        runner.skipped += left_out
        yield from _measure(runner)
        self._write(runner, setting.folder)

    def _metric(self, name: str) -> Chosen:
        from obverse.evaluation.names import metric
        from obverse.evaluation.runner import Chosen

        options = dict((self.plan.metric_options or {}).get(name) or {})
        return Chosen(metric(name, options), options)

    def _subject(self, entry: Entry, setting: Setting) -> tuple[Subject, Sequence[Any]]:
        """A codec that can run here, and the qualities that are asked for.

        Raises:
            UnknownNameError, PluginError: it is not installed, or lacks a program.
            WeightsError: its weights are not here, or are not to be fetched.
            ConfigError: it has no such quality.
        """
        from obverse.evaluation.names import subject

        source = str(self.base / entry.codec) if entry.codec.endswith((".yaml", ".yml")) else entry.codec
        weights = [str(self.base / file) if "://" not in file else file for file in entry.weights]
        weights = weights or _weights(source, setting.weights)
        _check_weights(source, weights, setting.fetch)
        made = subject(source, weights=weights, device=setting.device, numerics=entry.numerics)
        reason = made.missing()
        if reason is not None:
            raise PluginError(reason)
        qualities = [made.parse_quality(str(quality)) for quality in entry.qualities] or list(made.qualities)
        made.fingerprint_of(qualities[0])
        return made, qualities

    def _write(self, runner: Runner, folder: Path) -> None:
        """Results, figures, tables and the page; what an earlier run left of them is replaced."""
        from obverse.evaluation.analysis_files import write_analyses
        from obverse.evaluation.report import make_report
        from obverse.evaluation.results import write_results
        from obverse.files import write_beside

        outcome = runner.finish()
        assert outcome is not None  # this process is alone
        if not outcome.samples:
            raise UnsupportedInputError(f"{self.name}: nothing could be measured: {_lines(outcome.skipped[:1])}")
        write_results(folder, runner, outcome)
        write_analyses(folder, folder / ANALYSES, with_paper=self.plan.paper, bpp=self.plan.strip_bpp, force=True)
        page = make_report(folder, max_images=8, max_mb=20)
        write_beside(folder / REPORT, page.html.encode(), force=True)


def _measure(runner: Runner) -> Iterator[str]:
    """Run codec by codec; yields what was left out of each."""
    told = len(runner.skipped)
    early = runner.points and runner.skipped[told:]  # qualities without weights
    for _, steps in groupby(runner.run(), key=lambda step: step.point and step.point.subject.name):
        skipped = [step.skipped for step in steps if step.skipped is not None]
        yield _lines([*early, *skipped])
        early = []


def _lines(skipped: Sequence[Skipped]) -> str:
    """What was left out in one line: the first, and how many more there are."""
    if not skipped:
        return ""
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return f"{skipped[0].what} is left out: {' '.join(skipped[0].reason.split())}{more}"


def _weights(source: str, folder: Path | None) -> list[str]:
    """Weights of a codec in a folder of many; for one with a checkpoint per quality, the folder with its name."""
    config = _config(source)
    if config is None or folder is None:
        return []
    own = folder / config.name
    return [str(own)] if config.qualities and own.is_dir() else weights_in(folder, config.name, None)


def _check_weights(source: str, weights: Sequence[str], fetch: bool) -> None:
    """Refuse a codec without any checkpoint, or one that would fetch weights though it is not to.

    Raises:
        WeightsError: with where they are found.
    """
    config = _config(source, weights)
    if config is None:
        return
    checkpoints = [config.at(quality) for quality in range(1, config.qualities + 1)] if config.qualities else [config]
    if config.qualities and not any(checkpoint.weights for checkpoint in checkpoints):
        raise config.without_weights()
    if not fetch:
        for checkpoint in checkpoints:
            checkpoint.local_weights()


def _config(source: str, weights: Sequence[str] = ()) -> CodecConfig | None:
    """The configuration of a codec; None for anchors."""
    try:
        return load_config(source, weights=weights)
    except (UnknownNameError, ConfigError):  # no codec; else whoever makes it says what is wrong
        return None
