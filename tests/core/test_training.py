"""Short training runs on generated images."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import obverse
from obverse.errors import ConfigError
from obverse.pipeline import create
from obverse.training.config import DEFAULTS, load_training
from obverse.training.data import ImageCrops
from obverse.training.trainer import Trainer

ENCODER = {"widths": [4, 4, 4], "encoder_blocks": [0, 0, 0], "decoder_blocks": [0, 0, 0], "latent_channels": 4}
HYPER = {"widths": [4, 4, 4], "blocks": [0, 0, 0], "latent_channels": 4, "hyper_width": 4, "hyper_channels": 2}
PRIOR = {"dim": 8, "layers": 1, "heads": 2, "window": 4}
ELIC = {
    "name": "elic-generator", "hyper_channels": 4, "parts": 2, "dim": 16, "layers": 1, "heads": 2,
    "hyper_widths": [4, 6, 8], "groups": [2, 4], "context_widths": [5, 4],
}  # fmt: skip
TASKS: dict[str, dict[str, Any]] = {
    "vq-tokenizer": {"encoder": ENCODER, "codebook": 16},
    "next-token": {"encoder": ENCODER, "codebook": 16, "prior": PRIOR},
    "rate-distortion": {"encoder": HYPER, "lambdas": [0.01, 0.1]},
    "elic": {"encoder": {"width": 4, "latent_channels": 6}, "prior": ELIC},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, a folder inside a folder."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "inner").mkdir()
    rng = np.random.default_rng(0)
    for index in range(10):
        pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((90, 70), Image.Resampling.BICUBIC)
        image.save(folder / ("inner" if index % 2 else "") / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.safetensors"
    torch.manual_seed(0)
    save_file(create("task", {"name": "vq-tokenizer", **TASKS["vq-tokenizer"]}).weights(), path)
    return path


class Runs:
    """Runs of one task in folders of their own."""

    def __init__(self, folder: Path, images: Path, tokenizer: Path) -> None:
        self.folder, self.images, self.tokenizer = folder, images, tokenizer

    def config(self, task: str, run: str, **changes: Any) -> dict[str, Any]:
        section = {"name": task, **TASKS[task]}
        if task == "next-token":
            section["tokenizer"] = str(self.tokenizer)
        return (
            DEFAULTS
            | {
                "output": str(self.folder / run),
                "task": section,
                "data": DEFAULTS["data"] | {"sources": [str(self.images)], "crop": 64, "batch": 4},
                "schedule": DEFAULTS["schedule"] | {"steps": 6, "warmup": 2},
                "every": {"log": 1, "checkpoint": 3, "preview": 6},
            }
            | changes
        )

    def train(self, config: dict[str, Any], stop: int | None = None) -> Path:
        """Run to the end, or die before step `stop`."""
        trainer = Trainer(config)
        if stop is not None:
            update = trainer._update

            def failing(batch: torch.Tensor) -> dict[str, torch.Tensor]:
                if trainer.step == stop:
                    raise KeyboardInterrupt
                return update(batch)

            trainer._update = failing  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
            return Path()
        return trainer.run()

    def log(self, run: str) -> list[list[str]]:
        """The log without its times."""
        rows = [line.split(",") for line in (self.folder / run / "log.csv").read_text().splitlines()]
        return [row[:1] + row[2:] for row in rows]


@pytest.fixture
def runs(tmp_path: Path, images: Path, tokenizer: Path) -> Runs:
    return Runs(tmp_path, images, tokenizer)


@pytest.mark.parametrize("task", sorted(TASKS))
class TestRuns:
    def test_weights_log_and_pictures(self, runs: Runs, task: str) -> None:
        weights = load_file(runs.train(runs.config(task, "run")))
        assert {key.split(".")[0] for key in weights} <= {"encoder", "quantizer", "prior"}
        assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
        log = runs.log("run")
        assert [row[0] for row in log] == ["step", "1", "2", "3", "4", "5", "6"]
        assert log[0][1] == "loss"
        assert all(float(cell) == float(cell) for row in log[1:] for cell in row)
        previews = list((runs.folder / "run" / "previews").glob("*.png"))
        assert len(previews) == (task != "next-token")
        for path in previews:
            with Image.open(path) as shown:
                assert shown.size == (4 * 64, 2 * 64)


@pytest.mark.parametrize(("task", "stop"), [*((task, 5) for task in sorted(TASKS)), ("vq-tokenizer", 3)])
def test_a_killed_run_continues_as_if_nothing_had_happened(runs: Runs, task: str, stop: int) -> None:
    """Killed in the middle of an epoch, at its checkpoint or two steps after."""
    straight = runs.train(runs.config(task, "straight"))
    runs.train(runs.config(task, "killed"), stop=stop)
    assert not (runs.folder / "killed" / "weights.safetensors").exists()
    continued = runs.train(runs.config(task, "killed"))
    assert runs.log("killed") == runs.log("straight")
    ours, theirs = load_file(continued), load_file(straight)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_trained_weights_make_a_codec(runs: Runs, tmp_path: Path) -> None:
    weights = runs.train(runs.config("rate-distortion", "run"))
    shared = {key: HYPER[key] for key in ("latent_channels", "hyper_width", "hyper_channels")} | {"qualities": 2}
    from omegaconf import OmegaConf

    body = {
        "name": "trained",
        "encoder": {"name": "pocket-hyper", **HYPER, "qualities": 2},
        "quantizer": {"name": "rounding", "channels": {"y": 4, "z": 2}},
        "prior": {"name": "mean-scale", **shared},
        "coder": {"name": "range"},
        "weights": str(weights),
    }
    (tmp_path / "trained.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(body)))
    result = obverse.load(tmp_path / "trained.yaml").reconstruct(np.zeros((30, 40, 3), dtype=np.uint8))
    assert result.image.size == (40, 30)


def test_a_finished_run_is_not_repeated(runs: Runs) -> None:
    config = runs.config("vq-tokenizer", "run")
    first = load_file(runs.train(config))
    again = load_file(runs.train(config))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert len(runs.log("run")) == 7


class TestSettings:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "training.yaml"
        path.write_text(text)
        return path

    def test_defaults_are_filled_in(self, tmp_path: Path) -> None:
        text = "task: {name: vq-tokenizer, codebook: 16}\ndata: {crop: 64}\n"
        config = load_training(self.write(tmp_path, text), ["optimizer.lr=0.5"])
        assert config["task"] == {"name": "vq-tokenizer", "codebook": 16}
        assert config["data"] == DEFAULTS["data"] | {"crop": 64}
        assert config["optimizer"] == DEFAULTS["optimizer"] | {"lr": 0.5}
        assert DEFAULTS["optimizer"]["lr"] != 0.5

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("task: {name: a}\nshedule: {}\n", r"unknown key 'shedule' did you mean 'schedule'\?"),
            ("task: {name: a}\ndata: {corp: 3}\n", r"data: unknown key 'corp' did you mean 'crop'\?"),
            ("task: {name: a}\ndata: 3\n", "data takes keys .*, not 3"),
            ("data: {crop: 3}\n", "task needs a name"),
            ("- 1\n", "is not a training configuration"),
            ("a: [\n", "configuration"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_training(self.write(tmp_path, text))

    def test_files_that_do_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            load_training(tmp_path / "none.yaml")

    def test_overrides_of_the_wrong_shape(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "task: {name: a}\ndata: {sources: [a]}\n")
        with pytest.raises(ConfigError, match="configuration"):
            load_training(path, ["data.sources.x=1"])

    def test_shipped_configurations_can_be_read(self) -> None:
        found = sorted((Path(__file__).parents[2] / "examples" / "training").glob("*.yaml"))
        assert found
        for path in found:
            assert load_training(path)["task"]["name"] in TASKS

    def test_a_run_needs_a_folder_and_enough_images(self, runs: Runs) -> None:
        with pytest.raises(ConfigError, match="output: a run folder is needed"):
            runs.train(runs.config("vq-tokenizer", "run", output=None))
        data = runs.config("vq-tokenizer", "run")["data"]
        with pytest.raises(ConfigError, match=r"data\.batch is 11, more than the 10 images"):
            runs.train(runs.config("vq-tokenizer", "run", data=data | {"batch": 11}))
        with pytest.raises(ConfigError, match=r"smaller than data\.crop"):
            runs.train(runs.config("vq-tokenizer", "run", data=data | {"crop": 80}))
        with pytest.raises(ConfigError, match="does not exist"):
            runs.train(runs.config("vq-tokenizer", "run", data=data | {"sources": ["nowhere"]}))
        with pytest.raises(ConfigError, match="no images in"):
            runs.train(runs.config("vq-tokenizer", "run", data=data | {"sources": []}))


class TestImageCrops:
    def test_crops_depend_on_seed_epoch_and_item_alone(self, images: Path) -> None:
        crops, again = ImageCrops([images], 32, seed=3), ImageCrops([images], 32, seed=3, cache=False)
        assert len(crops) == 10
        assert crops[7].shape == (3, 32, 32)
        assert crops[7].dtype == torch.float32
        assert 0 <= float(crops[7].min()) <= float(crops[7].max()) <= 1
        assert torch.equal(crops[7], again[7])
        assert torch.equal(crops[7], crops[7])
        again.epoch = 1
        assert not torch.equal(crops[7], again[7])
        assert not torch.equal(crops[7], ImageCrops([images], 32, seed=4)[7])

    def test_tar_files_hold_the_same_images(self, images: Path, tmp_path: Path) -> None:
        path = tmp_path / "images.tar"
        with tarfile.open(path, "w") as tar:
            for file in sorted(p for p in images.rglob("*.png")):
                tar.add(file, arcname=str(file.relative_to(images)))
            note = tarfile.TarInfo("README")
            note.size = 2
            tar.addfile(note, io.BytesIO(b"hi"))
        packed, loose = ImageCrops([path], 64), ImageCrops([images], 64)
        assert len(packed) == 10
        assert all(torch.equal(packed[i], loose[i]) for i in range(10))

    def test_small_images_are_cut_whole(self, images: Path) -> None:
        assert ImageCrops([images], 70)[0].shape == (3, 70, 70)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["next-token", "vq-tokenizer"])
def test_two_processes_train_as_one(runs: Runs, tmp_path: Path, task: str) -> None:
    """Two processes with half of the batch each; new codes are drawn from one half alone, so theirs differ a little."""
    from omegaconf import OmegaConf

    weights, losses = {}, {}
    for count in (1, 2):
        config = runs.config(task, f"run{count}")
        config["data"] = config["data"] | {"batch": 4 // count}
        if task == "next-token":
            config["task"] = config["task"] | {"dropout": 0.0}
        path = tmp_path / f"{count}.yaml"
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        launch += ["-m", "obverse", "train", str(path)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        losses[count] = [float(row[1]) for row in runs.log(f"run{count}")[1:]]
        weights[count] = load_file(runs.folder / f"run{count}" / "weights.safetensors")
    if task == "vq-tokenizer":
        assert losses[2] == pytest.approx(losses[1], rel=0.03)
        return
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
    for key, value in weights[1].items():
        torch.testing.assert_close(weights[2][key], value, atol=1e-6, rtol=1e-4)
