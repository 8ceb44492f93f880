"""Runs: every image once, resumed, with more metrics later, and their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import toy_evaluation
from PIL import Image
from toy_evaluation import Absent, Brightness, ColourShift, Levels, MeanError, TokenCount, Tokens, calls

from obverse.errors import OutputError, WeightsError
from obverse.evaluation.dataset import find_images
from obverse.evaluation.interfaces import Subject
from obverse.evaluation.protocols import protocol
from obverse.evaluation.results import write_results
from obverse.evaluation.runner import Chosen, Outcome, Runner
from obverse.group import Group


class Runs:
    """Runs over a few pictures into one folder."""

    def __init__(self, images: Path, folder: Path) -> None:
        self.images, self.folder = images, folder

    def runner(
        self,
        metrics: Sequence[Any] = (MeanError(),),
        qualities: Sequence[int] = (2, 16),
        subjects: Sequence[Subject] = (Levels(),),
        **options: Any,
    ) -> Runner:
        chosen = [metric if isinstance(metric, Chosen) else Chosen(metric) for metric in metrics]
        return Runner(
            folder=self.folder,
            dataset=find_images(self.images),
            protocol=options.pop("protocol", protocol("crop=24")),
            subjects=[(subject, qualities) for subject in subjects],
            metrics=chosen,
            **options,
        )

    def __call__(self, *arguments: Any, **options: Any) -> Outcome:
        calls.clear()
        runner = self.runner(*arguments, **options)
        list(runner.run())
        outcome = runner.finish()
        assert outcome is not None
        write_results(self.folder, runner, outcome)
        return outcome

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def lines(self) -> str:
        return (self.folder / "samples.jsonl").read_text()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    images = toy_evaluation.write_images(tmp_path / "images", 5)
    with toy_evaluation.installed():
        yield Runs(images, tmp_path / "results")


def test_samples_are_complete_and_sorted(runs: Runs) -> None:
    outcome = runs(keep="none")
    files = list(find_images(runs.images).files)
    assert [(s.codec, s.quality, s.filename) for s in outcome.samples] == [
        ("levels", quality, name) for quality in ("2", "16") for name in files
    ]
    for sample in outcome.samples:
        pixels = find_images(runs.images).read(sample.filename)[:24, :24]
        trip = Levels().trip(pixels, int(sample.quality))
        assert sample.bytes == trip.file_bytes
        assert sample.bpp == 8 * sample.bytes / 24**2
        assert sample.bpp_payload == 8 * (sample.bytes - 6) / 24**2
        assert (sample.bpp_estimated, sample.bpp_fixed, sample.picture) == (None, None, None)
        assert sample.metrics == {"mean-error": MeanError().measure(pixels, trip.pixels)}
        assert (sample.times["encoding"], sample.times["coder_encoding"]) == (0.25, None)
    assert len({sample.key for sample in outcome.samples}) == 10
    written = [json.loads(line) for line in runs.lines().splitlines()]
    assert [line["key"] for line in written] == [sample.key for sample in outcome.samples]


def test_nothing_is_measured_twice(runs: Runs) -> None:
    runs()
    first = runs.lines()
    runs()
    assert calls == []
    assert runs.lines() == first


def test_a_new_quality_and_a_new_image_are_all_that_is_measured(runs: Runs) -> None:
    runs()
    toy_evaluation.write_images(runs.images, 6)
    runs(qualities=(2, 4, 16))
    assert [call for call in calls if call[0] == "trip"] == [("trip", "2"), *[("trip", "4")] * 6, ("trip", "16")]


def test_images_with_the_same_pixels_are_coded_once(runs: Runs) -> None:
    shutil.copy(runs.images / "01.png", runs.images / "copy.png")
    outcome = runs(qualities=(2,), keep="none")
    assert len(outcome.samples) == 6
    assert calls.count(("trip", "2")) == 5
    ours, theirs = (next(s for s in outcome.samples if s.filename == name) for name in ("01.png", "copy.png"))
    assert (ours.key, ours.bytes, ours.metrics) == (theirs.key, theirs.bytes, theirs.metrics)


@pytest.mark.parametrize(("keep", "trips"), [("all", 0), ("none", 10)])
def test_a_new_metric_needs_the_codec_only_where_no_picture_is_kept(runs: Runs, keep: str, trips: int) -> None:
    before = runs(keep=keep).samples
    after = runs((MeanError(), Brightness()), keep=keep).samples
    assert [len([call for call in calls if call[0] == name]) for name in ("trip", "mean-error", "brightness")] == [
        trips,
        0,
        10,
    ]
    assert [sample.times for sample in after] == [sample.times for sample in before]
    assert list(after[0].metrics) == ["mean-error", "brightness"]


def test_other_versions_and_options_are_measured_again(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    first = runs(keep="all").samples[0].metrics["mean-error"]
    assert first is not None
    second = runs((Chosen(MeanError(scale=2.0), {"scale": 2.0}),), keep="all").samples[0].metrics["mean-error"]
    assert second == 2 * first
    assert calls == [("mean-error",)] * 10
    assert runs(keep="all").samples[0].metrics["mean-error"] == first
    assert calls == []
    monkeypatch.setattr(MeanError, "version", "toys 2")
    runs(keep="all")
    assert calls == [("mean-error",)] * 10
    monkeypatch.setattr(Levels, "version", "2")
    runs(keep="all")
    assert calls.count(("trip", "2")) == 5


@pytest.mark.parametrize(("keep", "count"), [("none", 0), ("some", 3), ("all", 5)])
def test_pictures_are_kept(runs: Runs, keep: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obverse.evaluation.runner.SOME", 3)
    outcome = runs(keep=keep, qualities=(4,))
    kept = [sample for sample in outcome.samples if sample.picture is not None]
    assert [sample.filename for sample in kept] == list(find_images(runs.images).files[:count])
    for sample in kept:
        assert sample.picture == f"pictures/levels/4/{sample.filename}.png"
        pixels = find_images(runs.images).read(sample.filename)[:24, :24]
        assert np.array_equal(np.asarray(Image.open(runs.folder / sample.picture)), Levels().trip(pixels, 4).pixels)
        reference = runs.folder / "pictures" / "reference" / f"{sample.filename}.png"
        assert np.array_equal(np.asarray(Image.open(reference)), pixels)


def test_pictures_that_were_not_kept_are_made_later(runs: Runs) -> None:
    runs(keep="none")
    outcome = runs(keep="all")
    assert all(sample.picture for sample in outcome.samples)
    assert ("mean-error",) not in calls


def test_several_processes_give_the_same_files(runs: Runs) -> None:
    """Their shares, one after the other; test_eval.py runs them at once."""
    metrics, subjects = (MeanError(), ColourShift(), TokenCount()), (Tokens(),)
    runs(metrics, subjects=subjects)
    files = {name: (runs.folder / name).read_text() for name in ("samples.jsonl", "set_metrics.json")}
    shutil.rmtree(runs.folder)
    calls.clear()
    runners = [runs.runner(metrics, subjects=subjects, group=FakeGroup(rank, 3)) for rank in range(3)]
    for runner in runners[::-1]:
        list(runner.run())
        FakeGroup.gathered.append((list(runner._images.items()), runner.skipped))
    outcome = runners[0].finish()
    FakeGroup.gathered.clear()
    assert outcome is not None
    write_results(runs.folder, runners[0], outcome)
    assert {name: (runs.folder / name).read_text() for name in files} == files
    assert calls.count(("trip", "2")) == 5
    assert len(list((runs.folder / "parts").iterdir())) == 3


class FakeGroup(Group):
    """A process whose colleagues have left what they gathered."""

    gathered: list[tuple[list[Any], list[Any]]] = []  # noqa: RUF012

    def gather(self, items: Sequence[Any]) -> list[Any]:
        which = 0 if items and isinstance(items[0], tuple) else 1
        return [item for gathered in self.gathered for item in gathered[which]]


def test_sets(runs: Runs) -> None:
    outcome = runs((ColourShift(),), qualities=(2, 16), keep="none")
    assert runs.json("set_metrics.json") == outcome.set_metrics
    pixels = [find_images(runs.images).read(name)[:24, :24] for name in find_images(runs.images).files]
    for quality in (2, 16):
        decoded = [Levels().trip(image, quality).pixels for image in pixels]
        features = [[ColourShift().features(image) for image in images] for images in (pixels, decoded)]
        assert outcome.set_metrics["levels"][str(quality)]["colour-shift"] == ColourShift().compute(*features)
    runs((ColourShift(),), qualities=(2, 16), keep="none")
    assert calls == []


def test_counts_of_tokens_are_summed_over_the_set(runs: Runs) -> None:
    shutil.copy(runs.images / "01.png", runs.images / "copy.png")
    subjects = (Tokens(), Levels())
    runs(subjects=subjects, keep="all")
    outcome = runs((MeanError(), TokenCount()), subjects=subjects, keep="all")
    assert calls.count(("trip", "2")) == 10, "pictures that were kept do not tell the tokens"
    assert ("mean-error",) not in calls
    count = 6 * 24 * 24 * 3
    assert outcome.set_metrics == {"tokens": {"2": {"token-count": count}, "16": {"token-count": count}}}
    assert runs.json("set_metrics.json") == outcome.set_metrics
    assert runs.json("run.json")["metrics"]["token-count"]["of"] == "set"
    assert runs((TokenCount(),), subjects=subjects).set_metrics == outcome.set_metrics
    assert calls == []


class Partly(Levels):
    """A codec without the weights of quality 2."""

    def available(self, qualities: Sequence[int]) -> tuple[Sequence[int], str | None]:
        return [quality for quality in qualities if quality != 2], "weights are missing"


def test_qualities_that_cannot_run_are_told_once(runs: Runs) -> None:
    outcome = runs(subjects=(Partly(),))
    assert [(entry.what, entry.reason) for entry in outcome.skipped] == [("levels at quality 2", "weights are missing")]
    assert {sample.quality for sample in outcome.samples} == {"16"}


def test_what_is_left_out(runs: Runs) -> None:
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(runs.images / "black.png")
    Image.fromarray(np.ones((20, 30, 3), np.uint8)).save(runs.images / "small.png")
    (runs.images / "broken.png").write_bytes(b"no image")
    outcome = runs(subjects=(Absent(), Levels()), qualities=(2,))
    told = {entry.what: (entry.reason, entry.expected) for entry in outcome.skipped}
    assert told["absent"] == ("the program absentenc is not installed", False)
    assert told["black.png with levels at quality 2"] == ("all is black", False)
    assert told["small.png"] == ("30x20 pixels are less than the 24x24 of protocol 'centre-24'", True)
    assert not told["broken.png"][1]
    assert len(told) == 4
    assert len(outcome.samples) == 5
    run = runs.json("run.json")
    assert {entry["what"] for entry in run["skipped"]} == set(told)
    assert list(run["subjects"]) == ["levels"]


def test_an_error_of_the_codec_is_told_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(*_: object) -> None:
        calls.append(("trip", "broken"))
        raise WeightsError("weights do not fit")

    broken = Levels()
    broken.name = "broken"
    monkeypatch.setattr(broken, "trip", trip)
    outcome = runs(subjects=(broken, Levels()), qualities=(2,))
    assert [(entry.what, entry.reason) for entry in outcome.skipped] == [("broken at quality 2", "weights do not fit")]
    assert calls.count(("trip", "broken")) == 1
    assert list(runs.json("run.json")["subjects"]) == ["levels"]


def test_a_disk_that_is_full_ends_the_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OutputError("no space is left")

    monkeypatch.setattr("obverse.evaluation.store.Store.append", fail)
    with pytest.raises(OutputError, match="no space"):
        runs()


def test_sets_that_are_not_complete_have_no_value(runs: Runs) -> None:
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(runs.images / "black.png")
    assert runs((ColourShift(),), qualities=(2,)).set_metrics == {}


def test_result_files(runs: Runs) -> None:
    flat = np.full((24, 24, 3), 9, np.uint8)
    Image.fromarray(flat).save(runs.images / "flat.png")
    outcome = runs((MeanError(), Brightness()), qualities=(16, 2))
    body = runs.json("levels.json")
    assert body["name"] == "levels"
    results = body["results"]
    assert set(results) == {"bpp", "bpp_payload", "mean-error", "brightness", "encoding_time", "decoding_time"}
    assert {len(values) for values in results.values()} == {2}
    assert results["bpp"] == sorted(results["bpp"])
    assert body["meta"]["qualities"] == ["2", "16"]
    assert body["meta"]["undefined"] == {"mean-error": [1, 1]}
    low = [sample for sample in outcome.samples if sample.quality == "2"]
    assert results["bpp"][0] == fmean(sample.bpp for sample in low)
    assert results["mean-error"][0] == fmean(v for s in low if (v := s.metrics["mean-error"]) is not None)
    assert results["encoding_time"] == [0.25, 0.25]
    by_sample = body["results_by_sample"]
    assert {len(values) for values in by_sample.values()} == {12}
    assert next(iter(by_sample)) == "filename"
    assert by_sample["mean-error"].count(None) == 2

    run = runs.json("run.json")
    assert (run["schema"], run["dataset"]["count"], run["protocol"]["side"]) == (1, 6, 24)
    assert run["metrics"]["mean-error"] == {
        "direction": "lower", "range": [0, 255], "colour_space": "RGB", "version": "toys 1", "needs_reference": True,
        "of": "image", "options": {},
    }  # fmt: skip
    assert run["subjects"]["levels"] == {
        "fingerprint": "levels1", "qualities": ["16", "2"], "describe": {"versions": {"levels": "1"}},
        "parameters": None, "codebook": None, "tokens": None, "licence": "MIT",
    }  # fmt: skip
    assert {"torch", "platform", "cpu", "threads"} <= set(run["environment"])
