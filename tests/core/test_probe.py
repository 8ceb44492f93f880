"""Linear probing: the protocol's parts, and pocket-vq's tokens of two classes of pictures."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
import yaml
from PIL import Image

import obverse
from obverse.config import load_config
from obverse.errors import ConfigError, OutputExistsError
from obverse.experiments import Setting, load_experiment
from obverse.experiments.labelled_pictures import LabelledPictures, central_crop, random_resized_crop
from obverse.experiments.linear_probe import LARS, LinearProbe, accuracy
from obverse.experiments.probe_schedule import Schedule
from obverse.experiments.token_features import TokenFeatures

SHIPPED = Path(__file__).parents[2] / "experiments" / "linear_probe.yaml"
KINDS = ("dim", "warm")
EACH = 24
STRIDE = 16  # of pocket-vq


def draw(kind: str, seed: int) -> Image.Image:
    """A picture of one of two kinds, told apart by colour alone."""
    pixels = toys.picture(80, 72, seed) * 0.6
    pixels += np.array([0, 20, 70] if kind == "dim" else [90, 20, 0])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` and `val` with classes that are kinds; `mixed-train` and `mixed-val` with half of each kind in each."""
    folder = tmp_path_factory.mktemp("sets")
    for number, name in enumerate(("train", "val", "mixed-train", "mixed-val")):
        for index in range(2 * EACH):
            kind, half = KINDS[index % 2], KINDS[index // EACH]
            target = folder / name / (half if name.startswith("mixed") else kind) / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            draw(kind, 1000 * number + index).save(target)
    return folder


def recipe(folder: Path, sets: Path, mixed: str = "", **body: Any) -> Path:
    path = folder / "probed.yaml"
    codec = {"codec": "pocket-vq", "size": 64, "pooling": body.pop("pooling", "flatten")}
    defaults = {
        "kind": "probe", "train": [str(sets / f"{mixed}train")], "val": [str(sets / f"{mixed}val")], "augment": False,
        "codecs": [codec], "epochs": 90, "warmup": 5, "batch": 16, "lr": 16.0,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(defaults | body), encoding="utf-8")
    return path


def run(path: Path, out: Path, **setting: Any) -> dict[str, Any]:
    """The report."""
    experiment = load_experiment(path)
    lines = list(experiment.run(Setting(folder=out, **setting)))
    assert len(lines) <= experiment.steps
    report: dict[str, Any] = json.loads((out / "probed.json").read_text())
    return report


class TestRun:
    @pytest.mark.parametrize("pooling", ["flatten", "mean"])
    def test_classes_that_tokens_tell_apart(self, tmp_path: Path, sets: Path, pooling: str) -> None:
        path = recipe(tmp_path, sets, pooling=pooling)
        (one,) = run(path, tmp_path / "out")["codecs"]
        assert one["top1"] >= 95
        cells = math.ceil(64 / STRIDE) ** 2
        assert (one["features"], one["classes"]) == (8 * cells if pooling == "flatten" else 8, 2)
        assert one["top5"] == 100  # there are two classes
        assert len(one["epochs"]) == 90
        assert one["epochs"][-1]["loss"] < 0.95 * one["epochs"][0]["loss"]
        assert load_experiment(path).summary(tmp_path / "out") == [
            f"pocket-vq: top-1 {one['top1']:.1f} %, top-5 100.0 %"
        ]

    def test_labels_that_tokens_do_not_tell(self, tmp_path: Path, sets: Path) -> None:
        (one,) = run(recipe(tmp_path, sets, "mixed-", pooling="mean"), tmp_path / "out")["codecs"]
        assert 30 <= one["top1"] <= 70

    def test_random_crops(self, tmp_path: Path, sets: Path) -> None:
        path = recipe(tmp_path, sets, augment=True, epochs=2)
        first, second = (run(path, tmp_path / name)["codecs"][0]["epochs"] for name in ("a", "b"))
        assert first == second
        assert first != run(recipe(tmp_path, sets, epochs=2), tmp_path / "c")["codecs"][0]["epochs"]
        assert len(list((tmp_path / "a" / "tokens").iterdir())) == 1  # of the validation set

    def test_tokens_are_kept(self, tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = recipe(tmp_path, sets, epochs=2)
        before = run(path, tmp_path / "out")["codecs"][0]["epochs"]
        monkeypatch.setattr(TokenFeatures, "tokens", lambda *_: pytest.fail("encoded again"))
        assert run(path, tmp_path / "out", force=True)["codecs"][0]["epochs"] == before
        with pytest.raises(OutputExistsError, match=r"probed\.json"):
            run(path, tmp_path / "out")

    def test_curves(self, tmp_path: Path, sets: Path) -> None:
        pytest.importorskip("matplotlib")
        run(recipe(tmp_path, sets, epochs=2), tmp_path / "out")
        with Image.open(tmp_path / "out" / "probed.png") as figure:
            assert np.asarray(figure.convert("L")).std() > 5

    def test_what_is_missing_is_left_out_and_named(self, tmp_path: Path, sets: Path) -> None:
        codecs = [{"codec": "pocket-qv"}, {"codec": "pocket-vq", "size": 64, "title": "ours"}]
        report = run(recipe(tmp_path, sets, codecs=codecs, epochs=1), tmp_path / "out")
        assert [one["name"] for one in report["codecs"]] == ["ours"]
        (gone,) = report["missing"]
        assert gone["name"] == "pocket-qv"
        assert "did you mean 'pocket-vq'" in gone["missing"]

    def test_codecs_without_tokens(self, tmp_path: Path, sets: Path) -> None:
        path = recipe(tmp_path, sets, codecs=[{"codec": "pocket-hyper"}])
        with pytest.raises(ConfigError, match="codec 'pocket-hyper' has no tokens to probe"):
            run(path, tmp_path / "out")

    def test_other_classes(self, tmp_path: Path, sets: Path) -> None:
        for name in (*KINDS, "new"):
            (tmp_path / "val" / name).mkdir(parents=True)
            draw("dim", 0).save(tmp_path / "val" / name / "0.png")
        with pytest.raises(ConfigError, match="train and val have other classes, as 'new'"):
            run(recipe(tmp_path, sets, val=[str(tmp_path / "val")]), tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"codecs": []}, "codecs needs at least one entry"),
        ({"codecs": [{"codec": "pocket-vq"}, {"codec": "pocket-vq"}]}, "two codecs are called 'pocket-vq'"),
        ({"pooling": "max"}, "codec 1: pooling takes flatten, mean, not 'max'"),
        ({"augment": 1}, "augment takes true or false, not 1"),
        ({"labels": "none"}, "labels takes folders, shards, not 'none'"),
        ({"train": "imagenet"}, "train takes a list, each a text"),
        ({"epochs": 0}, "epochs and batch are at least 1"),
        ({"train": "???"}, "train"),
    ],
)
def test_recipes_are_checked(tmp_path: Path, sets: Path, body: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(recipe(tmp_path, sets, **body))


def test_the_shipped_recipe() -> None:
    experiment = load_experiment(SHIPPED, ["train=[a]", "val=[b]"])
    told = experiment.to_dict()
    protocol = {field: getattr(Schedule(), field) for field in ("epochs", "warmup", "batch", "lr", "momentum")}
    assert {key: told[key] for key in protocol} == protocol
    assert told["augment"] is True
    for entry in told["codecs"]:
        assert load_config(entry["codec"]).name == entry["codec"]


class TestProtocol:
    def test_rate(self) -> None:
        schedule = Schedule(epochs=90, warmup=10)
        rates = [schedule.rate(epoch, 16384) for epoch in (0, 5, 10, 50, 90)]
        assert rates == pytest.approx([0, 3.2, 6.4, 3.2, 0])
        assert schedule.rate(10, 512) == pytest.approx(0.2)

    def test_lars_by_hand(self) -> None:
        matrix = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        vector = torch.nn.Parameter(torch.tensor([1.0]))
        optimizer = LARS([matrix, vector], lr=2.0, momentum=0.5)
        for _ in range(2):
            matrix.grad, vector.grad = torch.tensor([[0.0, 10.0]]), torch.tensor([0.1])
            optimizer.step()
        first = 0.001 * 5  # trust times the norm, along the gradient
        second = 0.5 * first + 0.001 * math.hypot(3, 4 - 2 * first)
        assert matrix.tolist() == [[3.0, pytest.approx(4 - 2 * first - 2 * second, abs=1e-6)]]
        assert vector.item() == pytest.approx(1 - 2 * 0.1 - 2 * 0.15)

    def test_lars_decays_matrices_alone(self) -> None:
        matrix, vector = torch.nn.Parameter(torch.ones(1, 4)), torch.nn.Parameter(torch.ones(4))
        optimizer = LARS([matrix, vector], lr=1.0, weight_decay=0.1)
        matrix.grad, vector.grad = torch.zeros(1, 4), torch.zeros(4)
        optimizer.step()
        assert torch.allclose(matrix, torch.full((1, 4), 0.999))
        assert torch.equal(vector, torch.ones(4))

    def test_probe_starts_from_its_seed(self) -> None:
        ours, same, other = (LinearProbe(features=6, classes=3, seed=seed)[1].weight for seed in (1, 1, 2))
        assert torch.equal(ours, same)
        assert not torch.equal(ours, other)

    def test_accuracy(self) -> None:
        probe = LinearProbe(features=3, classes=3)
        with torch.no_grad():
            probe[1].weight.copy_(torch.eye(3))
        features = torch.tensor([[3.0, 2, 1], [1, 3, 2], [1, 2, 3], [3, 2, 1]])
        batches = [(features[:3], torch.tensor([0, 2, 0])), (features[3:], torch.tensor([1]))]
        assert accuracy(probe, batches, (1, 2)) == {1: 25.0, 2: 75.0}


class TestPictures:
    def test_labels_are_folders(self, sets: Path) -> None:
        pictures = LabelledPictures([sets / "train"], 48)
        assert pictures.classes == KINDS
        assert torch.bincount(pictures.labels).tolist() == [EACH, EACH]
        assert (pictures[0].shape, pictures[0].dtype) == ((48, 48, 3), torch.uint8)

    def test_random_crops_follow_from_seed_epoch_and_row(self, sets: Path) -> None:
        pictures, again = (LabelledPictures([sets / "train"], 48, augment=True, seed=3) for _ in range(2))
        first = pictures[5]
        assert torch.equal(first, again[5])
        pictures.epoch = 1
        assert not torch.equal(first, pictures[5])

    def test_crops_lie_inside(self) -> None:
        """A picture that is white within and black at its edge shows no edge that padding would bring."""
        picture = Image.new("RGB", (90, 30), "white")
        rng = np.random.default_rng(0)
        for _ in range(20):
            assert np.asarray(random_resized_crop(picture, 16, rng)).min() == 255
        assert central_crop(picture, 28).size == (28, 28)

    def test_central_crop_is_central(self) -> None:
        pixels = np.zeros((64, 128, 3), np.uint8)
        pixels[:, 32:96] = 255  # the middle square
        shown = np.asarray(central_crop(Image.fromarray(pixels), 56))
        assert shown.shape == (56, 56, 3)
        assert shown.min() == 255

    def test_pictures_without_classes(self, tmp_path: Path) -> None:
        draw("dim", 0).save(tmp_path / "stray.png")
        with pytest.raises(ConfigError, match=r"stray\.png' lies in no folder that could be its class"):
            LabelledPictures([tmp_path], 32)

    def test_the_digest_tells_files_apart(self, tmp_path: Path) -> None:
        file = tmp_path / "warm" / "a.png"
        file.parent.mkdir()
        digests = []
        for seed in (0, 1, 0):
            draw("warm", seed).save(file)
            digests.append(LabelledPictures([tmp_path], 32).digest())
        assert digests[0] == digests[2] != digests[1]

    def test_shards(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
            for name, number in (("a", 7), ("b", 3)):
                draw("warm", number).save(tmp_path / f"{name}.png")
                (tmp_path / f"{name}.cls").write_text(str(number))
                tar.add(tmp_path / f"{name}.png", f"{name}.png")
                tar.add(tmp_path / f"{name}.cls", f"{name}.cls")
        pictures = LabelledPictures([tmp_path / "train-{0..0}.tar"], 32, labels="shards")
        assert (pictures.classes, pictures.labels.tolist()) == (("3", "7"), [1, 0])
        assert len(pictures.digest()) == 16


class TestFeatures:
    def test_they_are_the_code_vectors(self, sets: Path) -> None:
        codec, pictures = obverse.load("pocket-vq"), LabelledPictures([sets / "val"], 48)
        flat, mean = (TokenFeatures(codec, 48, pooling) for pooling in ("flatten", "mean"))
        tokens = flat.tokens(pictures, [0, 7])
        assert tokens["tokens"].shape == (2, 1, math.ceil(48 / STRIDE) ** 2)
        vectors = codec.pipeline.quantizer.codebook.lookup(tokens["tokens"][1, 0].long())
        assert torch.equal(flat.features(tokens)[1], vectors.flatten())
        assert torch.allclose(mean.features(tokens)[1], vectors.mean(0))

    def test_tiles(self, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        codec, pictures = obverse.load("pocket-vq"), LabelledPictures([sets / "val"], 4 * STRIDE)
        monkeypatch.setattr(codec.pipeline.encoder, "tile", 2 * STRIDE, raising=False)
        features = TokenFeatures(codec, 4 * STRIDE)
        tokens = features.tokens(pictures, [0, 1, 2])
        assert tokens["tokens"].shape == (3, 4, 4)
        vectors = codec.pipeline.quantizer.codebook.lookup(tokens["tokens"][2].long())
        assert torch.equal(features.features(tokens)[2], vectors.flatten())
