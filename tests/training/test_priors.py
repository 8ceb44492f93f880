"""Training of priors over tokens, in miniature: from the recipes to codecs that compress and generate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from toys import toy_config

import obverse
from obverse.cli import main
from obverse.errors import ConfigError
from obverse.interfaces import Condition, Layout
from obverse.loop import Known, run
from obverse.next_scale import NextScalePrior
from obverse.next_token import LlamaPrior
from obverse.nn.llama import rotary_2d, rotate
from obverse.nn.next_scale import NextScaleTransformer, TransformerBlock
from obverse.pipeline import create
from obverse.selftest.seeded import fill
from obverse.training.config import load_training
from obverse.training.data_tokens import Tokens
from obverse.training.optimizers import make_optimizer
from obverse.training.tasks.next_scale import NextScaleTask, initialise
from obverse.training.tasks.next_token import NextTokenTask
from obverse.training.trainer import Trainer
from obverse_var.encoders import TileAutoencoder
from obverse_var.quantizers import MultiScaleQuantizer

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples" / "training"
BRUSHES = ROOT / "examples" / "images" / "brushes.jpg"

SIDES = [1, 2, 3, 4]
VAR_ENCODER: dict[str, Any] = {
    "tile": 32, "embed_dim": 6, "z_channels": 6, "width": 32, "multipliers": [1, 1, 1, 1], "blocks": 1,
    "attention_levels": [],
}  # fmt: skip
VAR_QUANTIZER: dict[str, Any] = {"size": 16, "dim": 6, "sides": SIDES}
VAR_PRIOR: dict[str, Any] = {
    "name": "var", "sides": SIDES, "vocabulary": 16, "channels": 6, "dim": 24, "layers": 2, "heads": 2, "classes": 2,
}  # fmt: skip
LLAMA: dict[str, Any] = {"name": "llamagen", "vocabulary": 16, "dim": 24, "layers": 2, "heads": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight crops of a photograph in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    with Image.open(BRUSHES) as whole:
        for index in range(8):
            place = folder / "ab"[index % 2]
            place.mkdir(exist_ok=True)
            whole.crop((40 * index, 30 * index, 40 * index + 96, 30 * index + 80)).save(place / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 16 codes at stride 16, in a codec with a prior of its own."""
    return toy_config(tmp_path_factory.mktemp("codec"), prior="llama")


@pytest.fixture(scope="module")
def tokens(codec: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four views of each crop, 4x4 tokens each, with classes."""
    folder = tmp_path_factory.mktemp("tokens") / "t"
    make_tokens(photos, codec, folder, "--size", "64", "--crops", "random-4", "--labels", "folders")
    return folder


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VAR's tokenizer for tiles of 32 pixels, with a uniform prior."""
    folder = tmp_path_factory.mktemp("var")
    encoder = fill(TileAutoencoder(**VAR_ENCODER), "var")
    quantizer = fill(MultiScaleQuantizer(**VAR_QUANTIZER), "var")
    tensors = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    tensors |= {f"quantizer.{key}": value for key, value in quantizer.state_dict().items()}
    save_file(tensors, folder / "var.safetensors")
    body = {
        "name": "var-toy",
        "encoder": {"name": "var", **VAR_ENCODER},
        "quantizer": {"name": "var", **VAR_QUANTIZER},
        "prior": {"name": "uniform"},
        "coder": {"name": "range"},
        "weights": "var.safetensors",
    }
    (folder / "var.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(body)))
    return folder / "var.yaml"


def make_tokens(photos: Path, codec: Path, folder: Path, *words: str) -> None:
    assert main(["tokens", str(photos), "--config", str(codec), "-o", str(folder), *words]) == 0


def recipe(name: str, output: Path, *changes: str) -> dict[str, Any]:
    """A recipe at a size that runs in seconds."""
    small = ["precision=no", "data.batch=4", "data.workers=0", "schedule.epochs=null", "schedule.warmup=2"]
    small += ["every.log=20", "every.checkpoint=20", "ema=0.9", "ema_warmup=true"]
    return load_training(RECIPES / f"{name}.yaml", [f"output={output}", *small, *changes])


def llama(vocabulary: int = 16, window: int = 4, classes: int = 2) -> list[str]:
    sizes = {"vocabulary": vocabulary, "dim": 24, "layers": 2, "heads": 2, "hidden": 32}
    given = sizes | {"window": window, "classes": classes}
    return [f"task.prior.{key}={value}" for key, value in given.items()]


def train(config: Mapping[str, Any], stop: int | None = None) -> Path:
    """Run to the end, or die at a step."""
    trainer = Trainer(config, Console(quiet=True))
    if stop is None:
        return trainer.run().parent
    update = trainer._update

    def dying(batches: Any) -> None:
        if trainer.step == stop:
            raise KeyboardInterrupt
        update(batches)

    trainer._update = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    return trainer.folder


def column(run: Path, name: str) -> list[float]:
    header, *rows = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    return [float(row[header.index(name)]) for row in rows]


def check_codec(path: Path, weights: list[Path] | None = None, label: int | None = 1) -> None:
    """It compresses, decompresses and generates."""
    loaded = obverse.load(path, weights=weights or ())
    with Image.open(BRUSHES) as whole:
        picture = np.asarray(whole.crop((0, 0, 64, 64)))
    data = loaded.compress(picture, label=label)
    assert np.asarray(loaded.decompress(data)).shape == (64, 64, 3)
    assert loaded.rate(picture, label=label).bits > 0
    assert loaded.generate(1, size=(64, 64), label=label)[0].size == (64, 64)


class TestRecipes:
    @pytest.mark.parametrize("name", ["llamagen-gpt", "vfmtok-prior"])
    def test_next_token(self, name: str, tokens: Path, codec: Path, tmp_path: Path) -> None:
        config = recipe(
            name, tmp_path / "run", *llama(), f"data.sources=[{tokens}]", "optimizer.lr=0.01", "schedule.steps=60"
        )
        folder = train(config)
        losses = column(folder, "loss")
        assert losses[-1] < losses[0] < 2.8  # log 16 = 2.77: all tokens equally probable
        assert column(folder, "bits_per_token")[-1] == pytest.approx(losses[-1] / np.log(2), rel=1e-4)
        body = OmegaConf.load(codec)
        body.prior, body.name = config["task"]["prior"], "trained"
        body.weights = [str(codec.with_suffix(".safetensors")), str(folder / "weights.safetensors")]
        # The file of the toy's tokenizer holds the toy's prior too.
        stored = load_file(codec.with_suffix(".safetensors"))
        save_file({k: v for k, v in stored.items() if not k.startswith("prior.")}, tmp_path / "tokenizer.safetensors")
        body.weights[0] = str(tmp_path / "tokenizer.safetensors")
        (tmp_path / "trained.yaml").write_text(OmegaConf.to_yaml(body))
        check_codec(tmp_path / "trained.yaml")

    def test_next_token_on_pictures(self, photos: Path, codec: Path, tmp_path: Path) -> None:
        changes = [*llama(window=2), f"task.tokenizer.codec={codec}", f"data.sources=[{photos}]", "data.crop=64"]
        changes += ["data.labels=folders", "optimizer.lr=0.01", "schedule.steps=60"]
        folder = train(recipe("llamagen-gpt", tmp_path / "run", *changes))
        losses = column(folder, "loss")
        assert losses[-1] < losses[0]
        check_codec(folder / "codec.yaml")

    def test_the_prior_of_pocket_vq(self, tokens: Path, codec: Path, tmp_path: Path) -> None:
        sizes = {"vocabulary": 16, "dim": 16, "layers": 1, "heads": 2, "window": 4}
        changes = [*(f"task.prior.{key}={value}" for key, value in sizes.items()), f"data.sources=[{tokens}]"]
        changes += ["task.tokenizer=null", "task.codes=false", "schedule.steps=60"]
        folder = train(recipe("pocket-vq-prior", tmp_path / "run", *changes))
        losses = column(folder, "loss")
        assert losses[-1] < losses[0]
        # The same prior as in the toy codec, whose own comes first.
        weights = [codec.with_suffix(".safetensors"), folder / "weights.safetensors"]
        check_codec(codec, weights, label=None)

    def test_next_scale(self, photos: Path, var: Path, tmp_path: Path) -> None:
        folder = train(self.var(tmp_path, var, photos, "data.labels=folders", "data.resize=40", "data.crop=32"))
        losses = column(folder, "loss")
        assert losses[-1] < losses[0] < 2.8
        assert column(folder, "bits_per_token")[-1] < column(folder, "bits_per_token")[0]
        check_codec(folder / "codec.yaml")

    def test_next_scale_on_tokens(self, photos: Path, var: Path, tmp_path: Path) -> None:
        words = ["--size", "32", "--crops", "random-2", "--resize", "40", "--no-flip", "--labels", "folders"]
        make_tokens(photos, var, tmp_path / "t", *words)
        assert Tokens([tmp_path / "t"])[0]["tokens"].shape == (30,)
        folder = train(self.var(tmp_path, var, tmp_path / "t", "task.data=tokens"))
        losses = column(folder, "loss")
        assert losses[-1] < losses[0] < 2.8
        check_codec(folder / "codec.yaml")

    def var(self, tmp_path: Path, var: Path, source: Path, *changes: str) -> dict[str, Any]:
        prior = [f"task.prior.{key}={value}" for key, value in VAR_PRIOR.items()]
        run = [f"task.tokenizer.codec={var}", "task.gamma=0.1", "optimizer.lr=0.01", "schedule.steps=60"]
        return recipe("var-d16", tmp_path / "run", *prior, *run, f"data.sources=[{source}]", *changes)


def test_parts_of_a_batch_train_as_the_whole(tokens: Path, tmp_path: Path) -> None:
    """Without dropout; which classes are dropped follows from the row of the batch."""
    losses = []
    for passes in (1, 2):
        changes = ["schedule.steps=6", "every.log=1", f"data.sources=[{tokens}]", f"accumulate={passes}"]
        changes += ["task.dropout=0", "task.token_dropout=0", "task.class_dropout=0.5", "optimizer.lr=0.01"]
        changes += [f"data.validation=[{tokens}]", "every.validation=6"]
        folder = train(recipe("llamagen-gpt", tmp_path / str(passes), *llama(window=3), *changes))
        losses.append(column(folder, "loss"))
        assert (folder / "validation.csv").exists()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_killed_run_continues_as_if_nothing_had_happened(tokens: Path, tmp_path: Path) -> None:
    def config(name: str) -> dict[str, Any]:
        changes = ["schedule.steps=12", "every.log=1", "every.checkpoint=4", f"data.sources=[{tokens}]"]
        return recipe("llamagen-gpt", tmp_path / name, *llama(), *changes)

    straight = train(config("straight"))
    train(config("killed"), stop=6)
    continued = train(config("killed"))
    assert column(continued, "loss") == column(straight, "loss")
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (continued, straight))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


class TestNextToken:
    def task(self, **changes: Any) -> NextTokenTask:
        torch.manual_seed(0)
        return NextTokenTask(**{"prior": LLAMA | {"classes": 2, "window": 4}} | changes)

    def batch(self, count: int = 16) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return {
            "tokens": torch.randint(16, (6, count), generator=generator),
            "labels": torch.randint(2, (6,), generator=generator),
        }

    def filled(self, **changes: Any) -> NextTokenTask:
        task = self.task(**changes)
        fill(task.prior, "prior", gain=0.5)  # the coder knows no probability below 2**-30
        return task

    def test_the_loss_is_what_the_prior_estimates(self) -> None:
        task, batch = self.filled().eval(), self.batch()
        with torch.no_grad():
            loss, numbers = task(batch)
        bits = 0.0
        for tokens, label in zip(batch["tokens"], batch["labels"], strict=True):
            condition = Condition(label=int(label))
            blocks = task.prior.teacher_forced({"tokens": tokens[None]}, Layout(1, 4, 4), condition)
            for block in run_all(blocks, tokens[None]):
                bits += float(block)
        # The estimate is that of the coder, whose logits are multiples of 1/4.
        assert float(numbers["bits_per_token"]) == pytest.approx(bits / 96, rel=5e-3)
        assert float(loss) == pytest.approx(bits / 96 * np.log(2), rel=5e-3)

    def test_classes_are_dropped_at_the_rate(self) -> None:
        task = self.task(class_dropout=0.25)
        labels = task.labels({"labels": torch.ones(4000, dtype=torch.int64)}, torch.device("cpu"))
        assert labels is not None
        assert set(labels.tolist()) == {1, task.prior.null}
        assert 0.22 < float((labels == 2).float().mean()) < 0.28
        labels = task.eval().labels(self.batch(), torch.device("cpu"))
        assert labels is not None
        assert torch.equal(labels, self.batch()["labels"])

    def test_rows_have_their_own_class(self) -> None:
        prior, batch = self.filled().prior, self.batch()
        together = prior.logits(batch["tokens"], Layout(6, 4, 4), Condition(), torch.arange(6) % 3)
        for row in range(6):
            condition = Condition(label=None if row % 3 == 2 else row % 3)
            alone = prior.logits(batch["tokens"][row : row + 1], Layout(1, 4, 4), condition)
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)

    def test_windows_of_larger_grids(self) -> None:
        task = self.task()
        tokens = torch.arange(30).expand(500, 30)
        windows, layout = task._window(tokens, 5, 6)
        assert layout == Layout(500, 4, 4)
        corners = set(windows[:, 0].tolist())
        assert corners == {0, 1, 2, 6, 7, 8}
        inside = torch.arange(4)[:, None] * 6 + torch.arange(4)
        assert all(torch.equal(window, window[0] + inside.flatten()) for window in windows)
        assert set(task.eval()._window(tokens, 5, 6)[0][:, 0].tolist()) == {0}
        assert torch.equal(task._window(tokens[:, :12], 3, 4)[0], tokens[:, :12])

    def test_dropouts(self) -> None:
        model = self.task(token_dropout=0.25, dropout=0.5).prior.model
        assert model.dropout.p == 0.25
        assert [layer.dropout.p for layer in model.layers] == [0.5, 0.5]
        inputs = torch.ones(1, 3, 24)
        rotary = torch.zeros(3, 6, 2)
        assert not torch.equal(model.hidden_states(inputs, rotary), model.hidden_states(inputs, rotary))
        model.eval()
        assert torch.equal(model.hidden_states(inputs, rotary), model.hidden_states(inputs, rotary))

    def test_positions_are_as_exact_in_half_precision(self) -> None:
        x = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
        table = rotary_2d(torch.arange(4), torch.arange(4), 8).float()
        turned = rotate(x, table)
        assert turned.dtype == torch.bfloat16
        assert torch.equal(turned, rotate(x.float(), table).bfloat16())

    def test_training_begins_with_equal_probabilities(self, tmp_path: Path) -> None:
        loss = self.task()(self.batch())[0].detach()
        assert float(loss) == pytest.approx(np.log(16), rel=1e-6)
        task = self.filled()
        save_file(task.weights(), tmp_path / "start.safetensors")
        again = self.task(start=str(tmp_path / "start.safetensors"))
        losses = [its.eval()(self.batch())[0].detach() for its in (again, task)]
        assert torch.equal(*losses)
        assert float(losses[0]) != pytest.approx(np.log(16), rel=1e-3)

    def test_a_minimal_gpt(self) -> None:
        prior = {"name": "vqgan-gpt", "vocabulary": 16, "dim": 16, "layers": 1, "heads": 2, "window": 4, "classes": 2}
        task = NextTokenTask(prior=prior, class_dropout=0.0)
        fill(task.prior, "gpt")
        batch = self.batch()
        loss = task.eval()(batch)[0].detach()
        for row in range(6):
            condition = Condition(label=int(batch["labels"][row]))
            tokens = batch["tokens"][row : row + 1]
            logits = task.prior.logits(tokens, Layout(1, 4, 4), condition)
            loss = loss - F.cross_entropy(logits[0], tokens[0]).detach() / 6
        assert abs(float(loss)) < 1e-5
        with pytest.raises(ConfigError, match=r"cannot do without a class: set task.class_dropout=0"):
            NextTokenTask(prior=prior)

    def test_like_tokens_begin_alike(self, codec: Path) -> None:
        torch.manual_seed(0)
        task = NextTokenTask(prior=LLAMA | {"classes": 2, "window": 4}, tokenizer={"codec": str(codec)}, codes=True)
        model, codes = task.prior.model, task._tokenizer[0].codes()
        assert codes.shape[0] == 16
        assert torch.equal(codes, task._tokenizer[0].quantizer.codebook.lookup(torch.arange(16)))
        for table in (model.tok_embeddings.weight, model.output.weight):
            assert torch.linalg.matrix_rank(table) == torch.linalg.matrix_rank(codes)
            solved = torch.linalg.lstsq(codes, table).solution
            torch.testing.assert_close(codes @ solved, table.detach())
        assert not torch.equal(model.tok_embeddings.weight, model.output.weight)

    def test_tokens_of_scales_have_no_codes(self, var: Path) -> None:
        prior = LLAMA | {"classes": 2}
        with pytest.raises(ConfigError, match="has no code vector per token"):
            NextTokenTask(prior=prior, tokenizer={"codec": str(var)}, codes=True)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data": "pixels"}, "task.data is one of images, tokens, not 'pixels'"),
            ({"data": "images"}, "task.data=images needs a tokenizer"),
            (
                {"tokenizer": {"codec": "pocket-vq"}},
                "'llamagen' and the tokenizer do not fit: 16 different tokens and 16384",
            ),
            ({"tokenizer": {"encoder": {"name": "pocket-conv"}}}, r"a tokenizer is \{codec, weights\} or"),
            ({"tokenizer": {"codec": "pocket-vq", "weihgts": "a"}}, r"not \{codec, weihgts\}"),
            ({"codes": True}, "task.codes is for a prior that begins anew, with a tokenizer"),
            ({"prior": {"name": "uniform", "alphabets": {"tokens": 3}}}, "has nothing to train"),
            ({"prior": VAR_PRIOR}, "cannot be trained by next-token: it has no logits of one pass"),
        ],
    )
    def test_mistakes_are_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.task(**changes)


class TestData:
    """Tokens and classes that a prior does not have."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (llama(vocabulary=17), "the tokens of codec 'toy' do not fit: 17 different tokens and 16"),
            (llama(classes=1), "has 1 classes, the data has 2"),
        ],
    )
    def test_refused(self, tokens: Path, tmp_path: Path, changes: list[str], message: str) -> None:
        config = recipe("llamagen-gpt", tmp_path / "run", *changes, f"data.sources=[{tokens}]")
        with pytest.raises(ConfigError, match=message):
            Trainer(config, Console(quiet=True))

    def test_without_classes(self, photos: Path, codec: Path, tmp_path: Path) -> None:
        make_tokens(photos, codec, tmp_path / "t", "--size", "64")
        words = [f"data.sources=[{tmp_path / 't'}]", "schedule.steps=2"]
        with pytest.raises(
            ConfigError, match=r"has 2 classes and the data has none: set data.labels, or task.prior.cl"
        ):
            Trainer(recipe("llamagen-gpt", tmp_path / "run", *llama(), *words), Console(quiet=True))
        train(recipe("llamagen-gpt", tmp_path / "run", *llama(classes=0), *words))

    def test_tokens_of_scales(self, photos: Path, var: Path, tmp_path: Path) -> None:
        make_tokens(photos, var, tmp_path / "t", "--size", "32", "--labels", "folders")
        config = recipe("llamagen-gpt", tmp_path / "run", *llama(), f"data.sources=[{tmp_path / 't'}]")
        with pytest.raises(ConfigError, match="models one token per cell, the tokens of codec 'var-toy' are 30 of a"):
            Trainer(config, Console(quiet=True))

    def test_tokens_of_a_grid_for_scales(self, tokens: Path, var: Path) -> None:
        task = NextScaleTask(prior=VAR_PRIOR, tokenizer={"codec": str(var)}, data="tokens")
        with pytest.raises(ConfigError, match="models 30 tokens of a grid of 4x4, the tokens of codec 'toy' are 16"):
            task.check(Tokens([tokens]))

    def test_another_tokenizer(self, tokens: Path, tmp_path: Path) -> None:
        other = toy_config(tmp_path, seed=5)
        task = NextTokenTask(prior=LLAMA | {"classes": 2, "window": 4}, tokenizer={"codec": str(other)}, data="tokens")
        with pytest.raises(ConfigError, match=r"were made by another tokenizer than task.tokenizer"):
            task.check(Tokens([tokens]))

    def test_crops_of_another_size(self, var: Path) -> None:
        task = NextScaleTask(prior=VAR_PRIOR, tokenizer={"codec": str(var)})
        with pytest.raises(ConfigError, match="takes 32x32 pixels, not 64x64"):
            task({"images": torch.zeros(1, 3, 64, 64), "labels": torch.zeros(1, dtype=torch.int64)})


class TestNextScale:
    def task(self, var: Path, **changes: Any) -> NextScaleTask:
        torch.manual_seed(0)
        return NextScaleTask(
            **{"prior": VAR_PRIOR, "tokenizer": {"codec": str(var)}, "data": "tokens", "gamma": 0.5} | changes
        )

    BATCH: ClassVar[dict[str, torch.Tensor]] = {
        "tokens": torch.randint(16, (4, 30), generator=torch.Generator().manual_seed(0)),
        "labels": torch.tensor([0, 1, 1, 0]),
    }

    def test_the_loss_is_what_the_prior_estimates(self, var: Path) -> None:
        task = self.task(var).eval()
        with torch.no_grad():
            loss, numbers = task(self.BATCH)
        bits = 0.0
        for tokens, label in zip(self.BATCH["tokens"], self.BATCH["labels"], strict=True):
            blocks = task.prior.teacher_forced({"tokens": tokens[None]}, Layout(1, 4, 4), Condition(label=int(label)))
            bits += sum(float(part) for part in run_all(blocks, tokens[None]))
        assert float(numbers["bits_per_token"]) == pytest.approx(bits / 120, rel=5e-3)
        assert float(loss) == pytest.approx(bits / 120 * np.log(2), rel=5e-3)

    def test_reconstructions_are_the_tokenizers(self, var: Path) -> None:
        task = self.task(var)
        stored = load_file(var.with_suffix(".safetensors"))
        for key, value in task.prior.scales.state_dict().items():
            assert torch.equal(value, stored[f"quantizer.scales.{key}"])
        assert not any(name.startswith("prior.scales") for name in task.trained())
        assert "prior.scales.codebook.weight" in task.weights()

    def test_scales_join_one_after_the_other(self, var: Path) -> None:
        task, counts = self.task(var, progressive=10, progressive_first=2), []
        for task.step in range(12):
            counts.append(task.scales())
        assert counts == sorted(counts)
        assert (counts[0], counts[9], counts[11]) == (2, 4, 4)
        task.step = 0
        few, _ = task.train()(self.BATCH)
        # 5 of 30 tokens, each with its share of the whole.
        assert float(few.detach()) == pytest.approx(float(np.log(16)) * 5 / 30, rel=0.2)
        assert task.eval().scales() == 4

    def test_keys_stay_without_a_bias(self, var: Path) -> None:
        task = self.task(var)
        task(self.BATCH)[0].backward()
        for layer in task.prior.model.layers:
            assert isinstance(layer, TransformerBlock)
            queries, keys, values = layer.attention.qkv.bias.grad.view(3, -1)  # type: ignore[union-attr]
            assert not keys.any()
            assert queries.any()
            assert values.any()

    def test_paths_are_dropped_while_training(self, var: Path) -> None:
        task = self.task(var, drop_path=0.9, class_dropout=0.0)
        losses = {float(task(self.BATCH)[0].detach()) for _ in range(5)}
        assert len(losses) > 1
        assert len({float(task.eval()(self.BATCH)[0].detach()) for _ in range(3)}) == 1
        still = self.task(var, drop_path=0.0, class_dropout=0.0)
        assert len({float(still(self.BATCH)[0].detach()) for _ in range(3)}) == 1

    def test_tables_do_not_decay(self, var: Path) -> None:
        task = self.task(var, prior=VAR_PRIOR | {"shared": True})
        options = {"name": "adamw", "lr": 1, "beta1": 0.9, "beta2": 0.9, "weight_decay": 0.05, "decay_vectors": False}
        decayed, kept = make_optimizer(options, task.trained().values()).param_groups
        names = {parameter: name.removeprefix("prior.model.") for name, parameter in task.trained().items()}
        assert {names[p] for p in kept["params"] if p.ndim > 1} == {
            "start", "positions", "level_embedding.weight", "layers.0.attention.scale.log_scale",
            "layers.1.attention.scale.log_scale", "layers.0.modulation.offset", "layers.1.modulation.offset",
        }  # fmt: skip
        assert all(p.ndim == 2 for p in decayed["params"])
        assert kept["weight_decay"] == 0

    def test_initial_weights(self) -> None:
        torch.manual_seed(0)
        model = NextScaleTransformer(
            sides=SIDES, vocabulary=64, channels=6, dim=192, layers=2, heads=3, classes=10, shared=False, mlp_ratio=4
        )
        initialise(model, gamma=1e-3)
        spread = (1 / 192 / 3) ** 0.5
        layer = model.layers[0]
        assert isinstance(layer, TransformerBlock)

        def ratio(tensor: torch.Tensor) -> float:
            return float(tensor.detach().std()) / spread

        assert ratio(model.positions) == pytest.approx(1, rel=0.05)
        assert ratio(layer.attention.qkv.weight) == pytest.approx(1, rel=0.05)
        assert ratio(layer.attention.proj.weight) == pytest.approx(0.5, rel=0.05)
        assert ratio(model.head.weight) == pytest.approx(0.02, rel=0.05)
        gates, others = layer.modulation.layers[1].weight.split([384, 768])  # type: ignore[index, union-attr]
        assert ratio(gates) == pytest.approx(1e-3, rel=0.05)
        assert ratio(others) == pytest.approx(0.5, rel=0.05)
        assert layer.attention.scale().detach().flatten().tolist() == pytest.approx([4, 4, 4])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"prior": LLAMA}, "cannot be trained by next-scale: it has no scales"),
            ({"prior": VAR_PRIOR | {"sides": [1, 2, 4]}}, "models 21 tokens, the tokenizer makes 30"),
        ],
    )
    def test_mistakes_are_named(self, var: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.task(var, **changes)


def run_all(blocks: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Bits of every block of known tokens."""
    from obverse.ledger import Ledger

    ledger = Ledger()
    run(blocks, ledger.counting(Known({"tokens": tokens})))
    return [torch.tensor(sum(ledger.bits.values()))]


def test_recipes_name_the_models_they_are_for() -> None:
    """At full size, without data for the weights."""
    with torch.device("meta"):
        gpt = create("prior", load_training(RECIPES / "llamagen-gpt.yaml")["task"]["prior"])
        var = create("prior", load_training(RECIPES / "var-d16.yaml")["task"]["prior"])
    assert isinstance(gpt, LlamaPrior)
    assert isinstance(var, NextScalePrior)
    assert sum(p.numel() for p in gpt.parameters()) == 110_888_448
    assert json.dumps(list(var.sides)) == "[1, 2, 3, 4, 5, 6, 8, 10, 13, 16]"
