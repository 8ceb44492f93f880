"""`obverse convert`: official files to safetensors in our names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from obverse.checkpoints import CheckpointFormat, Shapes, read_checkpoint
from obverse_registry import Component, hookimpl, registry


class Official(CheckpointFormat):
    """Files of a project that calls everything `net`."""

    def recognises(self, shapes: Shapes) -> bool:
        return all(name.startswith("net.") for name in shapes)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("net."): tensor for name, tensor in tensors.items()}


class Formats:
    """A plugin of this process."""

    @hookimpl
    def obverse_components(self) -> list[Component]:
        return [Component("checkpoint", "official", f"{__name__}:Official", licence="MIT")]


@pytest.fixture
def official(obverse, configs: dict[str, Path]) -> Iterator[Path]:
    """The weights of codec `toy` as their authors would have published them."""
    tensors = read_checkpoint(configs["toy"].with_suffix(".safetensors"))
    torch.save({"model": {f"net.{name}": value.float() for name, value in tensors.items()}, "epoch": 3}, "official.pth")
    registry().add(Formats(), "formats")
    yield Path("official.pth")
    registry().remove("formats")


def stored(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata())  # noqa: SIM118


def test_convert(obverse, official, configs, photo) -> None:
    done = obverse("convert", official, "toy.safetensors", "--codec", "toy", "--note", "url=https://a.b/c=d")
    assert (done.code, done.err) == (0, "")
    tensors, metadata = stored("toy.safetensors")
    assert done.out == f"toy.safetensors: {len(tensors)} tensors, 0.0 MB, official\n"
    expected = read_checkpoint(configs["toy"].with_suffix(".safetensors"))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value.float()) for name, value in expected.items())
    assert metadata == {
        "format": "official",
        "licence": "MIT",
        "source": "official.pth",
        "sha256": hashlib.sha256(official.read_bytes()).hexdigest(),
        "url": "https://a.b/c=d",
    }
    assert obverse("compress", photo, "a.obv", "-m", "toy", "-w", "toy.safetensors").code == 0
    assert obverse("compress", photo, "b.obv", "-m", "toy", "-w", official).code == 0
    assert obverse("decompress", "b.obv", "b.png", "-m", "toy", "-w", official).code == 0
    first, second = Path("a.obv").read_bytes(), Path("b.obv").read_bytes()
    assert first[11:-4] == second[11:-4]  # the payload; the fingerprints differ


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes(obverse, official, dtype) -> None:
    assert obverse("convert", official, "x.safetensors", "--dtype", dtype).code == 0
    assert {value.dtype for value in stored("x.safetensors")[0].values()} == {getattr(torch, dtype)}


def test_several_files_and_views(obverse, official) -> None:
    tensors = read_checkpoint(official)
    names = list(tensors)
    wide = torch.arange(12.0).view(4, 3)
    torch.save({name: tensors[name] for name in names[:2]}, "a.pt")
    torch.save({"net.prior.a": wide, "net.prior.b": wide.T}, "b.pt")
    report = obverse("convert", "a.pt", "b.pt", "x.safetensors", "--json").json
    assert (report["tensors"], report["output"]) == (4, "x.safetensors")
    found, metadata = stored("x.safetensors")
    assert report["metadata"] == metadata
    assert metadata["source"] == "a.pt, b.pt"
    assert torch.equal(found["prior.b"], wide.T)
    again = obverse("convert", "x.safetensors", "y.safetensors").out
    assert again == "y.safetensors: 4 tensors, 0.0 MB, obverse\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["official.pth"], 2, "takes files and an output, got 1 path"),
        ([], 2, "Missing argument"),
        (["official.pth", "x.pt"], 2, "the output 'x.pt' must end in .safetensors"),
        (["official.pth", "", "x.safetensors"], 2, "an empty word"),
        (["x.safetensors", "x.safetensors"], 2, "would overwrite the input"),
        (["official.pth", "x.safetensors", "--note", "url"], 2, "--note 'url' is not KEY=VALUE"),
        (["official.pth", "x.safetensors", "--dtype", "int8"], 2, "--dtype 'int8' does not exist"),
        (["official.pth", "x.safetensors", "--codec", "tyo"], 2, "'tyo'"),
        (["official.pth", "gone/x.safetensors"], 1, "its folder does not exist"),
        (["gone.pth", "x.safetensors"], 4, "gone.pth' cannot be read: No such file"),
        (["other.pth", "x.safetensors"], 4, "(1 tensors: a.b) are of no installed format"),
        (["official.pth", "official.pth", "x.safetensors"], 4, "which an earlier file holds too"),
        (["official.pth", "x.safetensors", "--codec", "toy-hyper"], 4, "do not fit the encoder of codec 'toy-hyper'"),
        (["hf://me", "x.safetensors"], 4, "expected hf://OWNER/REPO/FILE@REVISION"),
    ],
)
def test_convert_refuses(obverse, official, words, code, message) -> None:
    torch.save({"a.b": torch.ones(1)}, "other.pth")
    before = sorted(Path().iterdir())
    obverse("convert", *words).failed(code, message)
    assert sorted(Path().iterdir()) == before


def test_nothing_is_overwritten(obverse, official) -> None:
    Path("x.safetensors").write_text("mine")
    obverse("convert", official, "x.safetensors").failed(1, "'x.safetensors' exists; use --force")
    assert Path("x.safetensors").read_text() == "mine"
    assert obverse("convert", official, "x.safetensors", "--force").code == 0
