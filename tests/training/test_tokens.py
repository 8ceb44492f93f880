"""Folders of tokens: what `obverse tokens` writes, and what training reads of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from toys import toy_config, toy_hyper_config

import obverse
from obverse.cli import main
from obverse.errors import ConfigError, OutputExistsError, WeightsError
from obverse.group import Group
from obverse.loop import Known
from obverse.pipeline import create
from obverse.selftest.seeded import fill
from obverse.training.data import Pictures, open_data
from obverse.training.data_crops import Cropping
from obverse.training.data_tokens import Tokens, read_info, shard_path
from obverse.training.data_views import TokenWriter, Views
from obverse.training.frozen_tokenizer import Tokenizer

BRUSHES = Path(__file__).parents[2] / "examples" / "images" / "brushes.jpg"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_config(tmp_path_factory.mktemp("codec"), prior="llama")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven real pictures of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    with Image.open(BRUSHES) as whole:
        for index in range(7):
            place = folder / "ab"[index % 2]
            place.mkdir(exist_ok=True)
            whole.crop((40 * index, 30 * index, 40 * index + 90, 30 * index + 70)).save(place / f"{index}.png")
    return folder


def make(*words: object, code: int = 0) -> None:
    assert main(["tokens", *map(str, words)]) == code


def info(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tokens.json").read_text())
    return found


def pictures(photos: Path, **cropping: Any) -> Pictures:
    return Pictures([photos], cropping=Cropping(crop=64, **cropping), labels="folders", cache=0)


class TestCommand:
    def test_tokens_are_the_codecs(self, photos: Path, codec: Path, tmp_path: Path, capsys: Any) -> None:
        make(photos, "--config", codec, "-o", tmp_path / "t", "--size", 64, "--labels", "folders", "--shard", 3)
        out = capsys.readouterr()
        assert out.out == f"{tmp_path / 't'}\n"
        assert "7 pictures, 1 view of 16 tokens, 16 different" in out.err
        data = open_data({"sources": [str(tmp_path / "t")]}, "tokens")
        assert len(data) == 7
        assert data.classes == ("a", "b")
        assert data.class_count == 2
        loaded, order = obverse.load(codec), pictures(photos, resize=64)
        for index in range(7):
            crop = (order.fixed(index)["images"] * 255).round().byte().permute(1, 2, 0).numpy()
            known = loaded._symbols_of([crop], loaded.condition())
            assert isinstance(known, Known)
            item = data.fixed(index)
            assert torch.equal(item["tokens"], known.arrays["tokens"][0])
            assert item["tokens"].dtype == torch.int64
            assert int(item["labels"]) == int(Path(order.name(index)).parent.name == "b")

    def test_what_is_written_about_them(self, photos: Path, codec: Path, tmp_path: Path, capsys: Any) -> None:
        make(photos, "--config", codec, "-o", tmp_path / "t", "--size", 48, "--crops", 10, "--filter", "adm", "--json")
        told = json.loads(capsys.readouterr().out)
        written = info(tmp_path / "t")
        assert told == {"output": str(tmp_path / "t")} | {k: v for k, v in written.items() if k != "format"}
        assert written["grid"] == [3, 3]
        assert (written["count"], written["views"], written["vocabulary"]) == (9, 10, 16)
        assert (written["codec"], written["class_count"]) == ("toy", None)
        assert written["preprocessing"] == {
            "crops": "10", "crop": 48, "flip": True, "filter": "adm", "enlarge": [1.1]
        }  # fmt: skip
        stored = load_file(shard_path(tmp_path / "t", 0))
        assert stored.keys() == {"tokens"}
        assert stored["tokens"].shape == (7, 10, 9)
        assert stored["tokens"].dtype == torch.uint16

    def test_a_stopped_run_continues(self, photos: Path, codec: Path, tmp_path: Path) -> None:
        words = [photos, "--config", codec, "--size", 64, "--shard", 2]
        make(*words, "-o", tmp_path / "whole")
        make(*words, "-o", tmp_path / "parts")
        shard_path(tmp_path / "parts", 2).unlink()
        with pytest.raises(ConfigError, match="is not finished: 1 of 4 shards are missing"):
            Tokens([tmp_path / "parts"])
        before = shard_path(tmp_path / "parts", 1).stat().st_mtime_ns
        make(*words, "-o", tmp_path / "parts")
        assert shard_path(tmp_path / "parts", 1).stat().st_mtime_ns == before
        for number in range(4):
            whole, parts = (shard_path(tmp_path / name, number).read_bytes() for name in ("whole", "parts"))
            assert whole == parts

    def test_other_tokens_are_not_mixed_in(self, photos: Path, codec: Path, tmp_path: Path, capsys: Any) -> None:
        make(photos, "--config", codec, "-o", tmp_path / "t", "--size", 64)
        make(photos, "--config", codec, "-o", tmp_path / "t", "--size", 64, "--filter", "adm", code=1)
        assert "has other tokens: preprocessing" in capsys.readouterr().err
        other = toy_config(tmp_path, seed=1)
        make(photos, "--config", other, "-o", tmp_path / "t", "--size", 64, code=1)
        assert "has other tokens: fingerprint" in capsys.readouterr().err
        make(photos / "a", "--config", codec, "-o", tmp_path / "t", "--size", 64, code=1)
        assert "has other tokens: pictures 7, not 4; choose another folder" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--crops", "7"], "crops are 1 (the middle), 2"),
            (["--crops", "10", "--resize", "300"], "leave resize and scale out"),
            (["--crops", "5", "--enlarge", "0.9"], "enlarged by factors from 1"),
            (["--size", "40"], "takes multiples of 16 pixels, not 40x40"),
            (["--scale", "1"], "--scale is LOW,HIGH"),
            (["--device", "abacus"], "device 'abacus' cannot run tokenizer toy"),
            (["--filter", "box"], "data.filter is one of"),
            (["--labels", "shards"], "is a folder; use labels=folders"),
        ],
    )
    def test_mistakes_are_named(
        self, photos: Path, codec: Path, tmp_path: Path, capsys: Any, words: list[str], message: str
    ) -> None:
        assert main(["tokens", str(photos), "--config", str(codec), "-o", str(tmp_path / "t"), *words]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line

    def test_a_codec_without_tokens(self, photos: Path, tmp_path: Path, capsys: Any) -> None:
        make(photos, "--config", toy_hyper_config(tmp_path), "-o", tmp_path / "t", code=2)
        assert "toy-hyper has no tokens: its quantizer 'rounding' makes other symbols" in capsys.readouterr().err

    def test_broken_pictures(self, photos: Path, codec: Path, tmp_path: Path, capsys: Any) -> None:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "1.png").write_bytes(b"")
        (tmp_path / "p" / "2.png").write_bytes((photos / "a" / "0.png").read_bytes())
        words = [tmp_path / "p", "--config", codec, "-o", tmp_path / "t", "--size", 64]
        make(*words, code=1)
        assert "1.png' cannot be read: the file is empty" in capsys.readouterr().err
        make(*words, "--broken", "skip")
        assert len(Tokens([tmp_path / "t"])) == 2


class TestViews:
    PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)

    def views(self, crops: str, **others: Any) -> list[np.ndarray]:
        cropping = {"crop": 32} | {key: others.pop(key) for key in ("resize", "scale") if key in others}
        views = Views(crops, Cropping(**cropping), **others)
        found = views.cut(self.PIXELS, 3)
        assert len(found) == len(views)
        assert all(crop.shape == (32, 32, 3) for crop in found)
        return found

    def test_the_middle_and_its_mirror_image(self) -> None:
        one, mirrored = self.views("2", resize=40)
        assert np.array_equal(one, self.PIXELS[4:36, 14:46])
        assert np.array_equal(mirrored, one[:, ::-1])

    def test_ten_crops(self) -> None:
        five, ten = self.views("5"), self.views("10")
        assert all(np.array_equal(a, b) for a, b in zip(five, ten, strict=False))
        assert all(np.array_equal(a[:, ::-1], b) for a, b in zip(five, ten[5:], strict=True))
        side = int(32 * 1.1)
        image = Image.fromarray(self.PIXELS).resize((round(60 * side / 40), side), Image.Resampling.LANCZOS)
        left = (image.width - side) // 2
        square = np.asarray(image)[:, left : left + side]
        assert np.array_equal(five[0], square[:32, :32])
        assert np.array_equal(five[3], square[-32:, -32:])
        assert len(self.views("10", enlarge=(1.05, 1.1))) == 20

    def test_random_ones_follow_from_the_seed(self) -> None:
        found, again = self.views("random-4", seed=1), self.views("random-4", seed=1)
        assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
        assert len({crop.tobytes() for crop in found + self.views("random-4", seed=2)}) == 8


@pytest.fixture(scope="module")
def folder(photos: Path, codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten views of each picture in two shards."""
    folder = tmp_path_factory.mktemp("tokens") / "t"
    make(photos, "--config", codec, "-o", folder, "--size", 64, "--crops", 10, "--shard", 4)
    return folder


class TestTokens:
    def test_a_view_per_epoch(self, folder: Path) -> None:
        data, again = Tokens([folder], seed=2), Tokens([folder], seed=2)
        stored = torch.cat([load_file(shard_path(folder, number))["tokens"] for number in range(2)]).long()
        seen = set()
        for epoch in range(100):
            data.epoch = again.epoch = epoch
            item = data[5]
            assert torch.equal(item["tokens"], again[5]["tokens"])
            seen |= {view for view in range(10) if torch.equal(stored[5, view], item["tokens"])}
        assert seen == set(range(10))
        assert torch.equal(data.fixed(6)["tokens"], stored[6, 0])
        assert "labels" not in item

    def test_workers_see_the_same(self, folder: Path) -> None:
        data = Tokens([folder])
        alone = torch.stack([data[index]["tokens"] for index in range(7)])
        assert torch.equal(next(iter(DataLoader(data, batch_size=7, num_workers=2)))["tokens"], alone)

    def test_several_folders(self, folder: Path, photos: Path, codec: Path, tmp_path: Path) -> None:
        make(photos / "a", "--config", codec, "-o", tmp_path / "t", "--size", 64)
        data = Tokens([folder, tmp_path / "t"])
        assert len(data) == 11
        assert torch.equal(data.fixed(8)["tokens"], Tokens([tmp_path / "t"]).fixed(1)["tokens"])
        make(photos / "a", "--config", codec, "-o", tmp_path / "u", "--size", 48)
        with pytest.raises(ConfigError, match="do not go together: count 16 and 9"):
            Tokens([folder, tmp_path / "u"])

    def test_what_is_no_folder_of_tokens(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"data.sources is empty"):
            Tokens([])
        with pytest.raises(ConfigError, match=r"is no folder of tokens: it has no tokens.json"):
            Tokens([tmp_path])
        with pytest.raises(ConfigError, match=r"is no folder of tokens"):
            Tokens([shard_path(folder, 0)])
        (tmp_path / "tokens.json").write_text("[")
        with pytest.raises(ConfigError, match=r"tokens.json' cannot be read"):
            Tokens([tmp_path])
        (tmp_path / "tokens.json").write_text(json.dumps(info(folder) | {"format": 2}))
        with pytest.raises(ConfigError, match="has another format than 1"):
            Tokens([tmp_path])
        (tmp_path / "tokens.json").write_text(json.dumps({"format": 1}))
        with pytest.raises(ConfigError, match="other keys"):
            Tokens([tmp_path])

    def test_damaged_shards(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "tokens.json").write_text(json.dumps(info(folder)))
        for number in range(2):
            shard_path(tmp_path, number).write_bytes(b"damaged")
        with pytest.raises(ConfigError, match=r"tokens-00000.safetensors' cannot be read"):
            Tokens([tmp_path])[0]


def test_a_tokenizer_with_a_backbone(photos: Path, tmp_path: Path) -> None:
    """VFMTok's, whose backbone has weights of its own."""
    pytest.importorskip("transformers")
    backbone = {"kind": "dinov2", "dim": 16, "layers": 4, "heads": 2, "patch": 4, "side": 16, "registers": 1}
    encoder: dict[str, Any] = {
        "name": "vfmtok", "tile": 16, "backbone": backbone, "levels": [2, 4], "anchors": 4, "dim": 16,
        "encoder_layers": 1, "heads": 2, "points": 2, "decoder_layers": 1, "decoder_heads": 2, "hidden": 32,
        "width": 32, "multipliers": [1, 1, 1], "blocks": 1, "embed_dim": 4,
    }  # fmt: skip
    quantizer = {"name": "vfmtok", "size": 32, "dim": 4, "unit": True}
    made, codes = fill(create("encoder", encoder), "vfmtok"), fill(create("quantizer", quantizer), "codes")
    parts = {"encoder": made, "quantizer": codes}
    tensors = {f"{part}.{key}": value for part, its in parts.items() for key, value in its.state_dict().items()}
    save_file(tensors, tmp_path / "tokenizer.safetensors")
    made.make_backbone()
    own = {f"encoder.backbone.{key}": value for key, value in made.backbone.state_dict().items()}
    save_file(own, tmp_path / "backbone.safetensors")
    section: dict[str, Any] = {"encoder": encoder, "quantizer": quantizer}
    section["weights"] = str(tmp_path / "tokenizer.safetensors")
    with pytest.raises(WeightsError, match="no file holds the weights of the encoder's backbone"):
        Tokenizer.of_section(section)
    tokenizer = Tokenizer.of_section(section | {"encoding_weights": str(tmp_path / "backbone.safetensors")})
    assert not any(key.startswith("encoder.backbone.") for key in tokenizer.state())
    writer = TokenWriter(tmp_path / "t", Pictures([photos], cropping=Cropping(crop=16, resize=16)),
                         Views("2", Cropping(crop=16, resize=16)), tokenizer)  # fmt: skip
    assert sum(writer.write()) == 7
    found = torch.stack([Tokens([tmp_path / "t"]).fixed(index)["tokens"] for index in range(7)])
    assert found.shape == (7, 16)
    assert len(found.unique()) > 1


@pytest.mark.slow
def test_two_processes_write_what_one_does(photos: Path, codec: Path, tmp_path: Path) -> None:
    for count in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        launch += ["-m", "obverse", "tokens", str(photos), "--config", str(codec), "-o", str(tmp_path / str(count))]
        launch += ["--size", "64", "--shard", "2", "--workers", "1"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / str(count)}\n"
    for number in range(4):
        assert shard_path(tmp_path / "1", number).read_bytes() == shard_path(tmp_path / "2", number).read_bytes()
    assert (tmp_path / "1" / "tokens.json").read_text() == (tmp_path / "2" / "tokens.json").read_text()


def test_processes_share_the_shards(photos: Path, codec: Path, tmp_path: Path) -> None:
    views, tokenizer = Views("1", Cropping(crop=64, resize=64)), Tokenizer.of_codec(codec)
    seen = 0
    for rank in range(3):
        writer = TokenWriter(tmp_path / "t", pictures(photos, resize=64), views, tokenizer, shard=1)
        writer._shards = [int(name) for name in Group(rank, 3).share([str(number) for number in range(7)])]
        assert writer.left == len(writer._shards)
        seen += sum(writer.write())
    assert seen == 7
    assert read_info(tmp_path / "t") == writer.info
    assert len(Tokens([tmp_path / "t"])) == 7
    with pytest.raises(OutputExistsError, match="has other tokens: shard 1, not 2"):
        TokenWriter(tmp_path / "t", pictures(photos, resize=64), views, tokenizer, shard=2)


def test_crops_are_as_large_as_the_tokenizer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.of_codec("pocket-vq")
    monkeypatch.setattr(tokenizer.encoder, "multiple", 14)
    assert tokenizer.usual_side == 252  # the largest multiple of 14 up to 256
    tokenizer.check_size(252, 252)
