"""Studies: codecs of a recipe over a dataset, with codecs of random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toys
import yaml
from PIL import Image

from obverse.config import load_config
from obverse.errors import ConfigError, UnknownNameError, UnsupportedInputError
from obverse.experiments import Setting, load_experiment
from obverse.experiments.study import Study
from obverse_registry import registry

pytest.importorskip("matplotlib")

SHIPPED = Path(__file__).parents[2] / "experiments" / "vfm_codec.yaml"
PHOTOS = {"a.png": (70, 50), "b.png": (48, 48), "small.png": (20, 20)}


@pytest.fixture(scope="module")
def _codecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("codecs")
    hyper, family = toys.toy_hyper_config(folder), toys.toy_family_config(folder)
    (folder / "toy-family-2.safetensors").unlink()
    with toys.installed(hyper, family):
        yield


def recipe(folder: Path, **body: Any) -> Path:
    """A recipe beside a folder of pictures."""
    (folder / "photos").mkdir(exist_ok=True)
    for name, size in PHOTOS.items():
        Image.fromarray(toys.picture(*size)).save(folder / "photos" / name)
    path = folder / "study.yaml"
    codecs = [{"codec": "toy-hyper", "qualities": [2]}, {"codec": "jpeg", "qualities": [30, 80]}]
    defaults = {"kind": "study", "dataset": str(folder / "photos"), "protocol": "centre-48", "codecs": codecs}
    path.write_text(yaml.safe_dump(defaults | body), encoding="utf-8")
    return path


@pytest.mark.usefixtures("_codecs")
class TestStudy:
    def test_everything_is_measured_and_written(self, tmp_path: Path) -> None:
        study = load_experiment(recipe(tmp_path, paper=True))
        lines = list(study.run(Setting(folder=tmp_path / "out")))
        assert len(lines) <= study.steps
        (line,) = filter(None, lines)
        assert line.startswith("small.png is left out: 20x20 pixels are less than")
        assert all(path.is_file() for path in study.outputs(tmp_path / "out"))
        samples = [json.loads(text) for text in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
        assert [(one["codec"], one["quality"], one["filename"]) for one in samples] == [
            (codec, quality, name)
            for codec, quality in (("jpeg", "30"), ("jpeg", "80"), ("toy-hyper", "2"))
            for name in ("a.png", "b.png")
        ]
        tables = (tmp_path / "out" / "analyses" / "tables.md").read_text()
        assert "| Lumina-mGPT |" in tables
        assert (tmp_path / "out" / "analyses" / "rd-psnr-rgb.png").is_file()

    def test_it_goes_on_where_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = [{"codec": "jpeg", "qualities": [30]}]
        list(load_experiment(recipe(tmp_path, codecs=one)).run(Setting(folder=tmp_path / "out")))
        before = (tmp_path / "out" / "samples.jsonl").read_text()
        monkeypatch.setattr("obverse_anchors.pillow.Jpeg.trip", lambda *_: pytest.fail("measured again"))
        list(load_experiment(recipe(tmp_path, codecs=one)).run(Setting(folder=tmp_path / "out")))
        assert (tmp_path / "out" / "samples.jsonl").read_text() == before

    def test_what_is_missing_is_left_out_and_named(self, tmp_path: Path) -> None:
        codecs = [
            {"codec": "jpeg", "qualities": [30]},
            {"codec": "toy-hypr"},
            {"codec": "toy-hyper", "weights": ["gone.safetensors"]},
            {"codec": "toy-family", "qualities": [1, 2], "weights": ["hf://nobody/nothing/file.pt"]},
        ]
        study = load_experiment(recipe(tmp_path, codecs=codecs, metrics=["psnr-rgb", "beauty"]))
        lines = [line for line in study.run(Setting(folder=tmp_path / "out")) if line]
        left_out = [line.partition(" is left out: ")[0] for line in lines]
        assert left_out == ["metric beauty", "toy-hypr", "toy-hyper", "toy-family", "small.png"]
        assert "gone.safetensors" in lines[2]
        assert "are not on this machine" in lines[3]
        skipped = json.loads((tmp_path / "out" / "run.json").read_text())["skipped"]
        assert {one["what"] for one in skipped} == set(left_out)

    def test_qualities_without_weights(self, tmp_path: Path) -> None:
        study = load_experiment(recipe(tmp_path, codecs=[{"codec": "toy-family"}], limit=1))
        lines = [line for line in study.run(Setting(folder=tmp_path / "out")) if line]
        assert len(lines) == 1
        assert "toy-family at quality 2" in lines[0]
        told = json.loads((tmp_path / "out" / "toy-family.json").read_text())
        assert len(told["results"]["bpp"]) == 2

    def test_nothing_can_be_measured(self, tmp_path: Path) -> None:
        study = load_experiment(recipe(tmp_path, codecs=[{"codec": "gone"}]))
        with pytest.raises(UnsupportedInputError, match="study: nothing can be measured: gone is left out: no codec"):
            list(study.run(Setting(folder=tmp_path / "out")))
        study = load_experiment(recipe(tmp_path, dataset=str(tmp_path / "nowhere")))
        with pytest.raises(UnsupportedInputError, match="nowhere' is no folder"):
            list(study.run(Setting(folder=tmp_path / "out")))

    def test_what_is_printed_can_be_read(self, tmp_path: Path) -> None:
        study = load_experiment(recipe(tmp_path), ["limit=1", "codecs[1].qualities=[50]"])
        assert isinstance(study, Study)
        assert (study.plan.limit, study.entries[1].qualities) == (1, (50,))
        written = tmp_path / "again.yaml"
        written.write_text(yaml.safe_dump(study.to_dict()), encoding="utf-8")
        again = load_experiment(written)
        assert isinstance(again, Study)
        assert again.entries == study.entries


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"codecs": []}, "codecs and metrics need at least one entry"),
        ({"codecs": [{"codec": "jpeg"}, {"codec": "jpeg"}]}, "codec 'jpeg' is named twice"),
        ({"codecs": [{"codec": "jpeg", "quality": 1}]}, "codec 1: unknown key 'quality' did you mean 'qualities'"),
        ({"codecs": [{"codec": "jpeg", "qualities": 3}]}, "qualities takes a list"),
        ({"keep_pictures": "few"}, "keep_pictures takes none, some, all, not 'few'"),
        ({"limit": 0}, "limit is at least 1"),
        ({"protocol": "center"}, "no protocol 'center'"),
        ({"metric_options": {"lpips-alex": {}}}, "metric_options has 'lpips-alex', which metrics does not name"),
        ({"dataset": "???"}, "dataset"),
    ],
)
def test_recipes_are_checked(tmp_path: Path, body: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(recipe(tmp_path, **body))
    assert "\n" not in str(caught.value)


def test_the_shipped_recipe_names_what_is_installed() -> None:
    study = load_experiment(SHIPPED, ["dataset=photos"])
    assert isinstance(study, Study)
    anchors = [component.name for component in registry().components("anchor")]
    for entry in study.entries:
        if entry.codec not in anchors:
            try:
                load_config(entry.codec)
            except UnknownNameError as error:
                pytest.fail(str(error))
    metrics = {component.name for component in registry().components("metric")}
    assert set(study.plan.metrics) <= metrics
