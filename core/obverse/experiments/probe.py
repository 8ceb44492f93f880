"""Linear probing: how well a linear classifier recognises pictures by a codec's tokens alone.

The codec is frozen. Its tokens become code vectors, and a linear layer behind a batch norm is trained on them by the
protocol of masked autoencoders (arXiv:2111.06377, appendix A.1), as in VFMTok's tables (arXiv:2507.08441).
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.__about__ import __version__
from obverse.errors import ConfigError, PluginError, UnknownNameError, WeightsError
from obverse.experiments.probe_schedule import Schedule
from obverse.experiments.recipe import Experiment, Setting, codec_config, section
from obverse.files import check_output, make_folder, save_beside, write_beside

if TYPE_CHECKING:
    from obverse.codec import Codec
    from obverse.experiments.labelled_pictures import LabelledPictures
    from obverse.experiments.linear_probe import Examples
    from obverse.experiments.token_features import TokenFeatures, Tokens

PARTS = 10
"""Steps of the progress in which the pictures of a set become tokens."""

TOKENS = "tokens"
"""Folder of the tokens of whole sets, in that of the results; a run that was stopped finds them again."""

LABELS = ("folders", "shards")

SIZE = 256
"""Side of the pictures in pixels, for codecs that take any size."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A codec that is probed.

    Attributes:
        codec: name, or path of a YAML file relative to the recipe.
        quality: from 1; None for the codec's own.
        weights: files, relative to the recipe; none for those of the setting, or the codec's own.
        size: side of the pictures in pixels; None for the only one that the codec takes, or `SIZE`.
        pooling: how the code vectors of a picture become its features, one of `token_features.POOLINGS`.
        title: what the results are called; the codec's name by default.
    """

    codec: str
    quality: int | None = None
    weights: tuple[str, ...] = ()
    size: int | None = None
    pooling: str = "flatten"
    title: str = ""

    @property
    def name(self) -> str:
        return self.title or Path(self.codec).stem


@dataclass(frozen=True, kw_only=True)
class Plan(Schedule):
    """The keys of a recipe beside `kind`.

    Attributes:
        train: pictures that the classifier is trained on, as `data.sources` of a training.
        val: those that it is judged on, of the same classes.
        labels: where classes come from, `folders` or `shards`, as `data.labels` of a training.
        codecs: keys of `Probed`.
        augment: train on random crops, which are encoded anew in every epoch, as the protocol has it; otherwise on the
            central crops, whose tokens are kept.
        seed: of the crops, the order and the initial weights.
        workers: processes that read pictures.
        source: where the experiment is described.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    codecs: tuple[dict[str, Any], ...]
    labels: str = "folders"
    augment: bool = True
    seed: int = 0
    workers: int = 0
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Probe(Experiment):
    """Classifiers on the tokens of codecs.

    Attributes:
        name: of the files.
        base: folder that the recipe's paths are relative to; data sets are relative to the current one.
        plan: keys of the recipe.
        entries: codecs.
    """

    name: str
    base: Path
    plan: Plan
    entries: tuple[Probed, ...]

    @classmethod
    def parse(cls, body: Mapping[str, Any], path: Path) -> Probe:
        """From the keys of a recipe.

        Raises:
            ConfigError: one does not exist, or has a wrong value.
        """
        from obverse.experiments.token_features import POOLINGS

        plan = section(Plan, body, str(path))
        if not plan.codecs:
            raise ConfigError(f"{path}: codecs needs at least one entry")
        if plan.labels not in LABELS:
            raise ConfigError(f"{path}: labels takes {', '.join(LABELS)}, not {plan.labels!r}")
        if min(plan.epochs, plan.batch) < 1 or min(plan.warmup, plan.workers, plan.seed) < 0:
            raise ConfigError(f"{path}: epochs and batch are at least 1; warmup, workers and seed at least 0")
        entries = tuple(section(Probed, entry, f"{path}, codec {n}") for n, entry in enumerate(plan.codecs, 1))
        for number, entry in enumerate(entries, 1):
            if entry.pooling not in POOLINGS:
                raise ConfigError(f"{path}, codec {number}: pooling takes {', '.join(POOLINGS)}, not {entry.pooling!r}")
            if entry.size is not None and entry.size < 1:
                raise ConfigError(f"{path}, codec {number}: size is at least 1, not {entry.size}")
        names = [entry.name for entry in entries]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"{path}: two codecs are called {twice[0]!r}; give each a title of its own")
        return cls(name=path.stem, base=path.parent, plan=plan, entries=entries)

    @property
    def steps(self) -> int:
        encoded = 1 if self.plan.augment else 2
        return len(self.entries) * (encoded * PARTS + self.plan.epochs)

    def outputs(self, folder: Path) -> list[Path]:
        drawn = [folder / f"{self.name}.png"] if find_spec("matplotlib") is not None else []
        return [folder / f"{self.name}.json", *drawn]

    def to_dict(self) -> dict[str, Any]:
        defaults = asdict(Probed(codec=""))
        codecs = [{key: value for key, value in asdict(one).items() if value != defaults[key]} for one in self.entries]
        told: dict[str, Any] = json.loads(json.dumps({"kind": "probe", **asdict(self.plan), "codecs": codecs}))
        return told

    def summary(self, folder: Path) -> list[str]:
        report = json.loads(self.outputs(folder)[0].read_text(encoding="utf-8"))
        return [f"{one['name']}: top-1 {one['top1']:.1f} %, top-5 {one['top5']:.1f} %" for one in report["codecs"]]

    def run(self, setting: Setting) -> Iterator[str]:
        for path in self.outputs(setting.folder):
            check_output(path, setting.force, new_folder=True)
        make_folder(setting.folder / TOKENS)
        results, missing = [], []
        for entry in self.entries:
            try:
                codec = self._codec(entry, setting)
            except (UnknownNameError, PluginError, WeightsError) as error:
                reason = " ".join(str(error).split())
                missing.append({"name": entry.name, "missing": reason})
                yield f"{entry.name} is left out: {reason}"
                continue
            results.append((yield from self._probe(entry, codec, setting)))
        self._write(results, missing, setting)

    def _codec(self, entry: Probed, setting: Setting) -> Codec:
        from obverse.codec import from_config
        from obverse.hub import HubFile

        source = str(self.base / entry.codec) if entry.codec.endswith((".yaml", ".yml")) else entry.codec
        weights = [str(self.base / file) if "://" not in file else file for file in entry.weights]
        config = codec_config(source, entry.quality, weights, setting)
        if not setting.fetch:
            for file in config.encoding_weights:
                if isinstance(file, HubFile):
                    file.local()
        return from_config(config, setting.device)

    def _probe(self, entry: Probed, codec: Codec, setting: Setting) -> Generator[str, None, dict[str, Any]]:
        """Train a classifier on a codec's tokens; the report on it."""
        from obverse.experiments.linear_probe import LinearProbe, accuracy, fit
        from obverse.experiments.token_features import TokenFeatures

        start, plan = time.perf_counter(), self.plan
        size = entry.size or codec.pipeline.encoder.tile or SIZE
        train, val = self._sets(size)
        eye = TokenFeatures(codec, size, entry.pooling, entry.quality)
        kept = None if plan.augment else (yield from _all_tokens(eye, train, plan.workers, setting))
        known = yield from _all_tokens(eye, val, plan.workers, setting)

        def examples(rows: Any, epoch: int) -> Examples:
            train.epoch = epoch
            tokens = eye.tokens(train, rows.tolist(), plan.workers) if kept is None else _rows(kept, rows)
            return eye.features(tokens), train.labels[rows].to(codec.device)

        def judged() -> Iterator[Examples]:
            for first in range(0, len(val), plan.batch):
                rows = slice(first, first + plan.batch)
                yield eye.features(_rows(known, rows)), val.labels[rows].to(codec.device)

        numbers = eye.features(_rows(known, slice(1))).shape[1]
        probe = LinearProbe(features=numbers, classes=len(train.classes), seed=plan.seed).to(codec.device)
        epochs = []
        for loss in fit(probe, plan, len(train), examples, plan.seed):
            top = accuracy(probe, judged())
            epochs.append({"loss": round(loss, 5), "top1": round(top[1], 3), "top5": round(top[5], 3)})
            yield ""
        return {
            "name": entry.name, "codec": codec.name, "fingerprint": codec.fingerprint.hex(), "size": size,
            "pooling": entry.pooling, "features": numbers, "classes": len(train.classes),
            "pictures": {"train": len(train), "val": len(val)},
            "top1": epochs[-1]["top1"], "top5": epochs[-1]["top5"], "epochs": epochs,
            "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip

    def _sets(self, size: int) -> tuple[LabelledPictures, LabelledPictures]:
        """Training and validation set."""
        from obverse.experiments.labelled_pictures import LabelledPictures

        plan = self.plan
        train = LabelledPictures(plan.train, size, labels=plan.labels, augment=plan.augment, seed=plan.seed)
        val = LabelledPictures(plan.val, size, labels=plan.labels)
        if train.classes != val.classes:
            odd = sorted(set(train.classes) ^ set(val.classes))
            raise ConfigError(f"{self.name}: train and val have other classes, as {odd[0]!r}")
        return train, val

    def _write(self, results: list[dict[str, Any]], missing: list[dict[str, Any]], setting: Setting) -> None:
        import torch

        source = {
            "experiment": self.plan.source, "obverse": __version__, "torch": torch.__version__, "device": setting.device
        }  # fmt: skip
        report = {"name": self.name, "recipe": self.to_dict(), "source": source, "codecs": results, "missing": missing}
        written, *drawn = self.outputs(setting.folder)
        write_beside(written, (json.dumps(report, indent=2) + "\n").encode(), setting.force)
        if drawn and results:
            from obverse.evaluation.figures import epoch_figure, render

            lines = {one["name"]: [epoch["top1"] for epoch in one["epochs"]] for one in results}
            write_beside(drawn[0], render(epoch_figure(lines, "top-1 accuracy [%]"), ".png"), setting.force)


def _all_tokens(
    eye: TokenFeatures, pictures: LabelledPictures, workers: int, setting: Setting
) -> Generator[str, None, dict[str, Any]]:
    """Tokens of a whole set, read from an earlier run's file where there is one."""
    import torch
    from safetensors.torch import load_file, save_file

    codec = eye.codec
    key = f"{codec.name}-{codec.fingerprint.hex()}-q{eye.condition.quality + 1}-{eye.size}-{pictures.digest()}"
    path = setting.folder / TOKENS / f"{key}.safetensors"
    if path.is_file():
        return load_file(path)
    parts = []
    for rows in torch.arange(len(pictures)).tensor_split(PARTS):
        if len(rows):
            parts.append(eye.tokens(pictures, rows.tolist(), workers))
        yield ""
    tokens = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    save_beside(path, lambda beside: save_file(tokens, beside))
    return tokens


def _rows(tokens: Mapping[str, Any], rows: Any) -> Tokens:
    return {name: array[rows] for name, array in tokens.items()}
