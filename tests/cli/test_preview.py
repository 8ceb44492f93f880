"""`obverse preview`: what the first blocks of a stream look like."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toys
from omegaconf import OmegaConf
from PIL import Image

import obverse as package
from obverse.config import PARTS, CodecConfig
from obverse.pipeline import build
from obverse.selftest.seeded import fill
from obverse.weights import write_tensors

SIDES = [1, 2, 3]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-scale codec with three scales and a uniform prior."""
    folder = tmp_path_factory.mktemp("scales")
    body = {
        "name": "toy-scales",
        "encoder": {
            "name": "var", "tile": 6, "qualities": 3, "embed_dim": 4, "z_channels": 4, "width": 32,
            "multipliers": [1, 1], "blocks": 1, "attention_levels": [],
        },
        "quantizer": {"name": "var", "size": 16, "dim": 4, "sides": SIDES, "phis": 2},
        "prior": {"name": "uniform"},
        "coder": {"name": "range"},
    }  # fmt: skip
    tensors = {
        f"{prefix}.{name}": value
        for prefix, module in build(CodecConfig("toy-scales", {part: body[part] for part in PARTS})).modules.items()
        for name, value in fill(module, prefix, gain=2.0).state_dict().items()
    }
    write_tensors(folder / "toy-scales.safetensors", tensors, {}, int8=False)
    path = folder / "toy-scales.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(body | {"weights": "toy-scales.safetensors"})), encoding="utf-8")
    return path


@pytest.fixture
def codecs(config: Path, configs: dict[str, Path]) -> Iterator[None]:
    """The toy codecs, and the one with scales, installed."""
    with toys.installed(config, *configs.values()):
        yield


@pytest.fixture
def scales(obverse, photo: Path) -> Path:
    assert obverse("compress", photo, "scales.obv", "-m", "toy-scales").code == 0
    return Path("scales.obv")


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_one_picture_per_scale(obverse, scales: Path, config: Path) -> None:
    done = obverse("preview", scales)
    assert (done.code, done.err) == (0, "")
    names = [f"scales.preview-{count:02d}.png" for count in (1, 2, 3)]
    assert done.out == "".join(f"scales.obv -> {name}: {i} of 3 blocks\n" for i, name in enumerate(names, 1))
    assert sorted(path.name for path in Path().glob("*preview*")) == names
    pictures = [pixels(name) for name in names]
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[2], np.asarray(package.load(config).decompress(scales.read_bytes())))


def test_a_stream_of_fewer_scales(obverse, photo: Path) -> None:
    assert obverse("compress", photo, "two.obv", "-m", "toy-scales", "-q", "2").code == 0
    assert obverse("preview", "two.obv", "--json").json["results"][0]["blocks"] == [1, 2]
    obverse("preview", "two.obv", "--blocks", "3").failed(2, "two.obv", "no preview of 3 blocks: the stream has 2")


def test_chosen_blocks(obverse, scales: Path) -> None:
    done = obverse(
        "preview", scales, "--blocks", "3", "--blocks", "1", "-k", "3", "-d", "new", "--format", "ppm", "--json"
    )
    assert done.code == 0
    targets = [str(Path("new") / f"scales.preview-0{count}.ppm") for count in (1, 3)]
    result = done.json["results"][0]
    assert (result["outputs"], result["blocks"], result["of"]) == (targets, [1, 3], 3)
    assert all(Path(target).exists() for target in targets)


def test_names_of_outputs(obverse, scales: Path) -> None:
    assert obverse("preview", scales, "-o", "at-{}.png").code == 0
    assert [Path(f"at-0{count}.png").exists() for count in (1, 2, 3)] == [True] * 3
    assert obverse("preview", scales, "one.png", "--blocks", "2").code == 0
    assert np.array_equal(pixels("one.png"), pixels("at-02.png"))
    streamed = obverse("preview", "-", "--blocks", "2", stdin=scales.read_bytes())
    assert streamed.code == 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(streamed.stdout))), pixels("at-02.png"))


def test_outputs_that_exist_are_kept(obverse, scales: Path) -> None:
    Path("scales.preview-02.png").write_text("mine")
    obverse("preview", scales).failed(1, "'scales.preview-02.png' exists; use --force")
    assert sorted(path.name for path in Path().glob("*preview*")) == ["scales.preview-02.png"], "before any is written"
    assert obverse("preview", scales, "-f").code == 0
    assert pixels("scales.preview-02.png").shape == (40, 50, 3)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--blocks", "0"], 2, "--blocks"),
        (["--blocks", "4"], 2, "no preview of 4 blocks: the stream has 3"),
        (["one.png"], 2, "one output for several pictures: name it as 'scales-{}.png'"),
        (["-o", "-"], 2, "one output for several pictures"),
        (["-o", "at-{}.bad"], 2, "'.bad'"),
        (["-m", "toy"], 4, "scales.obv"),
    ],
)
def test_what_is_refused(obverse, scales: Path, words: list[str], code: int, text: str) -> None:
    obverse("preview", scales, *words).failed(code, text)
    assert not list(Path().glob("*.png*")) or list(Path().glob("*.png*")) == [Path("photo.png")]


def test_codecs_without_previews(obverse, stream: Path) -> None:
    obverse("preview", stream).failed(2, "stream.obv: codec 'toy' has no previews")


def test_damaged_streams(obverse, scales: Path) -> None:
    data = scales.read_bytes()
    Path("cut.obv").write_bytes(data[:-3])
    obverse("preview", "cut.obv", "--blocks", "1").failed(3, "cut.obv")
    Path("other.obv").write_bytes(b"no stream")
    obverse("preview", "other.obv").failed(3, "other.obv")
