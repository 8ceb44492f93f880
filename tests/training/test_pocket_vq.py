"""Short runs of pocket-vq's recipes, and the random views of its perceptual loss."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

import obverse
from obverse.cli import main
from obverse.nn.lpips import LPIPS
from obverse.training.config import load_training
from obverse.training.losses.views import same_view
from obverse.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "images" / "brushes.jpg"
PICTURE = np.asarray(Image.open(PHOTO))[100:142, 60:120]
SMALL = (
    "precision=no", "task.encoder.widths=[32,32,32]", "task.encoder.encoder_blocks=[0,0,0]",
    "task.encoder.decoder_blocks=[0,0,1]", "task.encoder.latent_channels=4", "task.quantizer.dim=4",
    "task.quantizer.size=64", "data.crop=64", "data.batch=4", "optimizer.lr=4e-3", "schedule.steps=16",
    "schedule.warmup=1", "every.log=1", "every.preview=null", "ema=0.5",
)  # fmt: skip


def log(run: Path) -> list[dict[str, float]]:
    with (run / "log.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pictures, and LPIPS of a trunk that was never trained, which is still a distance."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    with Image.open(PHOTO) as opened:
        for index in range(12):
            left, top = 60 * (index % 4), 100 + 60 * (index // 4)
            opened.crop((left, top, left + 70, top + 70)).save(folder / "pictures" / f"{index}.png")
    torch.manual_seed(0)
    state = LPIPS("squeeze").state_dict()
    save_file({k: v.abs() if k.startswith("lin") else v for k, v in state.items()}, folder / "lpips.safetensors")
    return [f"data.sources=[{folder / 'pictures'}]", f"task.perceptual.weights={folder / 'lpips.safetensors'}"]


def train(recipe: str, *changes: str) -> Path:
    config = load_training(ROOT / "examples" / "training" / f"pocket-vq-{recipe}.yaml", changes)
    return Trainer(config, Console(quiet=True)).run()


@pytest.fixture(scope="module")
def tokenizer(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("tokenizer", f"output={tmp_path_factory.mktemp('runs') / 'tokenizer'}", *SMALL, *words).parent


def test_recipe_of_the_tokenizer(tokenizer: Path) -> None:
    rows = log(tokenizer)
    begin, end = (np.mean([row["l1"] for row in part]) for part in (rows[:3], rows[-3:]))
    assert end < 0.9 * begin
    codec = obverse.load(tokenizer / "codec.yaml")
    assert np.asarray(codec.decompress(codec.compress(PICTURE))).shape == PICTURE.shape


def test_recipe_of_the_prior(tokenizer: Path, words: list[str], tmp_path: Path) -> None:
    pictures = words[0].partition("[")[2].rstrip("]")
    tokens = str(tmp_path / "tokens")
    made = [pictures, "--config", str(tokenizer / "codec.yaml"), "--size", "64", "--crops", "2", "-o", tokens]
    assert main(["tokens", *made]) == 0
    parts = ("encoder.widths=[32,32,32]", "encoder.encoder_blocks=[0,0,0]", "encoder.decoder_blocks=[0,0,1]",
             "encoder.latent_channels=4", "quantizer.dim=4", "quantizer.size=64",
             f"weights={tokenizer / 'weights.safetensors'}")  # fmt: skip
    run = train(
        "prior", f"output={tmp_path / 'prior'}", f"data.sources=[{tokens}]", "precision=no", "task.prior.dim=48",
        "task.prior.vocabulary=64", "task.prior.layers=1", "schedule.steps=30", "schedule.warmup=1", "every.log=1",
        "data.batch=4", *(f"task.tokenizer.{part}" for part in parts),
    ).parent  # fmt: skip
    bits = [row["bits_per_token"] for row in log(run)]
    assert np.mean(bits[-3:]) < 0.9 * bits[0]
    codec, plain = obverse.load(run / "codec.yaml"), obverse.load(tokenizer / "codec.yaml")
    assert codec.rate(PICTURE).bits < plain.rate(PICTURE).bits
    assert np.asarray(codec.decompress(codec.compress(PICTURE))).shape == PICTURE.shape


def test_the_decoder_can_be_trained_alone(tokenizer: Path, words: list[str], tmp_path: Path) -> None:
    before = tokenizer / "weights.safetensors"
    changes = ("task.frozen=[encoder.analysis,quantizer]", "task.quantization=null", f"task.start={before}")
    after = load_file(train("tokenizer", f"output={tmp_path / 'decoder'}", *SMALL, *words, *changes))
    moved = {key for key, value in load_file(before).items() if not torch.equal(value, after[key])}
    assert moved
    assert all(key.startswith("encoder.synthesis.") for key in moved)


class TestViews:
    def test_both_are_seen_alike(self) -> None:
        torch.manual_seed(0)
        images = torch.rand(2, 3, 40, 48)
        for chances in torch.rand(20, 4).tolist():
            one, other = same_view(images, images.clone(), chances)
            assert torch.equal(one, other)
            assert one.shape[:2] == (2, 3)

    def test_chances_are_a_shift_a_mirror_and_a_size(self) -> None:
        image = torch.arange(40 * 48).float().view(1, 1, 40, 48).expand(1, 3, 40, 48)
        full = float(torch.log(torch.tensor(2.0)) / torch.log(torch.tensor(2.4)))  # of 0.5 to 1.2: the size itself
        view, _ = same_view(image, image, (0.25, 0.5, 0.9, full))
        torch.testing.assert_close(view, image[:, :, 2:, 4:])
        view, _ = same_view(image, image, (0.25, 0.5, 0.1, full))
        torch.testing.assert_close(view, image[:, :, 2:, 4:].flip(3))
        assert same_view(image, image, (0.0, 0.0, 0.9, 0.0))[0].shape == (1, 3, 20, 24)

    def test_gradients_reach_the_picture(self) -> None:
        image = torch.rand(1, 3, 40, 40, requires_grad=True)
        one, other = same_view(image, torch.rand(1, 3, 40, 40), (0.5, 0.5, 0.5, 0.5))
        (gradient,) = torch.autograd.grad((one - other).square().sum(), image)
        assert gradient.abs().sum() > 0
