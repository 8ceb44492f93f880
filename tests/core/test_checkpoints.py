"""Files of every kind, recognised by what is in them."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toys import picture, toy_config

import obverse
from obverse.checkpoints import CheckpointFormat, Shapes, read_checkpoint, recognised, translated
from obverse.config import PARTS, load_config
from obverse.errors import PluginError, WeightsError
from obverse.pipeline import build
from obverse.selftest.seeded import fill
from obverse.taming import TokenizerFile
from obverse.weights import load_weights
from obverse_registry import Component, Registry, hookimpl, registry

STATE = {"first.weight": torch.arange(6.0).view(2, 3), "first.bias": torch.ones(2).half(), "count": torch.tensor(3)}


class Flat(CheckpointFormat):
    """Our names, dots written as bars."""

    names: ClassVar[tuple[str, ...]] = ("encoder|weight", "encoder|bias")

    def recognises(self, shapes: Shapes) -> bool:
        return "encoder|weight" in shapes or any(name.startswith("prior|") for name in shapes)

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("|", "."): tensor for name, tensor in tensors.items() if name != "loss"}


class Picky(Flat):
    """The same files, but not all of them."""

    def recognises(self, shapes: Shapes) -> bool:
        return "encoder|weight" in shapes and "picky" in shapes


class Lost(Flat):
    """Names of no part."""

    def recognises(self, shapes: Shapes) -> bool:
        return "lost" in shapes

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"nowhere.weight": tensors["lost.weight"]}


class Formats:
    """A plugin of this process."""

    def __init__(self, *kinds: type) -> None:
        self.kinds = kinds

    @hookimpl
    def obverse_components(self) -> list[Component]:
        return [
            Component("checkpoint", f"test.{kind.__name__.lower()}", f"{__name__}:{kind.__name__}", licence="MIT")
            for kind in self.kinds
        ]


@pytest.fixture
def formats() -> Iterator[None]:
    registry().add(Formats(Flat, Picky, Lost), "formats")
    yield
    registry().remove("formats")


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in expected.items()
    )


class TestKinds:
    @pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a", "a.json"])
    def test_safetensors_by_content(self, tmp_path: Path, name: str) -> None:
        save_file(STATE, tmp_path / name)
        assert same(read_checkpoint(tmp_path / name), STATE)

    @pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.bin", "a.safetensors"])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_torch_files_by_content(self, tmp_path: Path, name: str, zipped: bool) -> None:
        torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert same(read_checkpoint(tmp_path / name), STATE)

    @pytest.mark.parametrize("name", ["a.jit", "a.pt"])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_torchscript(self, tmp_path: Path, name: str) -> None:
        module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3))
        torch.jit.script(module).save(tmp_path / name)
        assert same(read_checkpoint(tmp_path / name), module.state_dict())

    def test_half_precision_stays(self, tmp_path: Path) -> None:
        state = {"a": torch.ones(3).bfloat16()}
        torch.save(state, tmp_path / "a.pt")
        assert same(read_checkpoint(tmp_path / "a.pt"), state)

    def test_parameters_and_views(self, tmp_path: Path) -> None:
        whole = torch.arange(12.0).view(4, 3)
        torch.save({"a": nn.Parameter(whole), "b": whole[:, 1], "c": whole.T}, tmp_path / "a.pt")
        assert same(read_checkpoint(tmp_path / "a.pt"), {"a": whole, "b": whole[:, 1], "c": whole.T})


class TestShards:
    @pytest.fixture(params=["safetensors", "bin"])
    def index(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        save = save_file if request.param == "safetensors" else torch.save
        for number, (name, value) in enumerate(STATE.items()):
            save({name: value}, tmp_path / f"model-{number}.{request.param}")
        path = tmp_path / f"model.{request.param}.index.json"
        names = {name: f"model-{number}.{request.param}" for number, name in enumerate(STATE)}
        path.write_text(json.dumps({"metadata": {}, "weight_map": names}))
        return path

    def test_an_index_or_its_folder(self, index: Path) -> None:
        assert same(read_checkpoint(index), STATE)
        assert same(read_checkpoint(index.parent), STATE)

    def test_a_folder_without_an_index(self, tmp_path: Path) -> None:
        save_file({"a": STATE["count"]}, tmp_path / "1.safetensors")
        save_file({"b": STATE["count"]}, tmp_path / "2.safetensors")
        assert list(read_checkpoint(tmp_path)) == ["a", "b"]

    def test_a_shard_that_is_gone(self, index: Path) -> None:
        next(index.parent.glob("model-1*")).unlink()
        with pytest.raises(WeightsError, match=r"model-1\.\w+' cannot be read: No such file"):
            read_checkpoint(index)

    @pytest.mark.parametrize("body", ["{}", "[]", "no", '{"weight_map": {}}', '{"weight_map": {"a": "../a"}}', ""])
    def test_a_wrong_index(self, tmp_path: Path, body: str) -> None:
        path = tmp_path / "a.index.json"
        path.write_text(body)
        with pytest.raises(WeightsError, match=r"index"):
            read_checkpoint(path)


class TestNests:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda s: {"state_dict": s, "epoch": 3, "optimizer_states": [{"state": {0: {"a": torch.ones(1)}}}]},
            lambda s: {"model": s, "ema": {"x": torch.ones(1)}, "optimizer": {"state": {}}, "steps": 5},
            lambda s: {"module": s, "ema": {"x": torch.ones(1)}},
            lambda s: {"ema": s, "discriminator": {"x": torch.ones(1)}},
            lambda s: {"state_dict": {"module": OrderedDict(s)}, "steps": torch.tensor(4)},
            lambda s: {**s, "version": "1.0", "args": None},
        ],
    )
    def test_the_model_is_found(self, tmp_path: Path, wrap: Any) -> None:
        torch.save(wrap(STATE), tmp_path / "a.pt")
        assert same(read_checkpoint(tmp_path / "a.pt"), STATE)

    def test_several_models_of_a_trainer(self, tmp_path: Path) -> None:
        trainer = {"vae": STATE, "var": {"x": torch.ones(1)}, "opt": {"state": {"y": torch.ones(1)}}, "config": {}}
        torch.save({"epoch": 1, "trainer": trainer}, tmp_path / "a.pt")
        expected = {f"vae.{k}": v for k, v in STATE.items()} | {"var.x": torch.ones(1)}
        assert same(read_checkpoint(tmp_path / "a.pt"), expected)


class Callback:
    """What trainers leave in checkpoints."""

    def __init__(self) -> None:
        self.best = 3


class Evil:
    """Runs a command where a pickle is trusted."""

    def __reduce__(self) -> Any:
        return os.system, ("touch was-run",)


class TestPickles:
    def test_objects_beside_the_tensors_are_let_go(self, tmp_path: Path) -> None:
        extra = {"callbacks": {Callback: Callback()}, "hyper_parameters": argparse.Namespace(lr=1.0, path=Path("x"))}
        torch.save({"state_dict": STATE, **extra}, tmp_path / "a.ckpt")
        assert same(read_checkpoint(tmp_path / "a.ckpt"), STATE)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_nothing_is_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"state_dict": STATE, "evil": Evil()}, "a.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=r"'a\.pt' are a pickle that .* is not run .* save its tensors"):
            read_checkpoint(Path("a.pt"))
        assert not Path("was-run").exists()

    def test_a_whole_module(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
        with pytest.raises(WeightsError, match=r"a\.pt' (hold one|are a pickle)"):
            read_checkpoint(tmp_path / "a.pt")


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "no checkpoint (the file is empty)"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
            (b"<!DOCTYPE html><html>", "a web page"),
            (b'{"architectures": []}', "JSON"),
            (b"\x1f\x8b123456789", "gzip"),
            (b"\xff\xd8\xff\xe0 jpeg", "it begins with ff d8 ff e0"),
            (b"\x80\x04\x95 pickle", "a pickle that torch did not write"),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "cannot be read as a torch file"),
            (b"PK\x05\x06" + bytes(18), "a zip archive of something else"),
            (b'\x10\0\0\0\0\0\0\0{"a": 1}        ', "cannot be read as safetensors"),
        ],
    )
    def test_other_files(self, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "a.pt"
        path.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            read_checkpoint(path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1], {"trainer": {}}, {"model": {"a": 1}}, torch.ones(2)])
    def test_files_without_tensors_by_name(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(WeightsError, match=r"a\.pt' hold (no tensors by name|one \w+)"):
            read_checkpoint(tmp_path / "a.pt")

    def test_a_cut_file(self, tmp_path: Path) -> None:
        for name, save in (("a.pt", torch.save), ("a.safetensors", save_file)):
            save(STATE, tmp_path / name)
            data = (tmp_path / name).read_bytes()
            for length in (20, len(data) // 2, len(data) - 1):
                (tmp_path / name).write_bytes(data[:length])
                with pytest.raises(WeightsError):
                    read_checkpoint(tmp_path / name)


@pytest.mark.usefixtures("formats")
class TestFormats:
    def test_our_names_are_taken_as_they_are(self) -> None:
        ours = {"encoder.a": torch.ones(1), "prior.b": torch.ones(2)}
        assert translated(Path("x"), ours) == ours

    def test_the_format_that_recognises_a_file(self) -> None:
        given = {"encoder|weight": torch.ones(1), "loss": torch.ones(2)}
        component = recognised(Path("x"), {k: tuple(v.shape) for k, v in given.items()})
        assert component is not None
        assert component.name == "test.flat"
        assert list(translated(Path("x"), given)) == ["encoder.weight"]

    def test_none(self) -> None:
        message = r"'x' \(2 tensors: encoder\|bias, other\) are of no installed format; nearest is 'test\.flat'; exp"
        with pytest.raises(WeightsError, match=message):
            translated(Path("x"), {"encoder|bias": torch.ones(1), "other": torch.ones(1)})
        with pytest.raises(WeightsError, match=r"are of no installed format; expected names that begin with encoder"):
            translated(Path("x"), {"who": torch.ones(1)})

    def test_several(self) -> None:
        with pytest.raises(WeightsError, match=r"are of several formats: test\.flat, test\.picky"):
            translated(Path("x"), {"encoder|weight": torch.ones(1), "picky": torch.ones(1)})

    def test_a_format_that_misses_something(self) -> None:
        with pytest.raises(WeightsError, match=r"are of format 'test\.lost', but lack 'lost\.weight'"):
            translated(Path("x"), {"lost": torch.ones(1)})

    def test_a_format_that_makes_no_part(self) -> None:
        with pytest.raises(PluginError, match=r"'test\.lost' translates to 'nowhere\.weight'"):
            translated(Path("x"), {"lost": torch.ones(1), "lost.weight": torch.ones(1)})

    def test_weights_in_several_formats(self, tmp_path: Path) -> None:
        encoder, prior = nn.Linear(2, 3), nn.Linear(3, 1)
        given = {k: torch.rand_like(v) for k, v in encoder.state_dict().items()}
        torch.save({"model": {f"encoder|{k}": v for k, v in given.items()}}, tmp_path / "a.pt")
        save_file({f"prior.{k}": v for k, v in prior.state_dict().items()}, tmp_path / "b.safetensors")
        load_weights([tmp_path / "a.pt", tmp_path / "b.safetensors"], {"encoder": encoder, "prior": prior})
        assert same(encoder.state_dict(), given)

    def test_a_codec_with_an_official_file(self, tmp_path: Path) -> None:
        """The same pictures as with the file in our names."""
        path = toy_config(tmp_path, prior="llama")
        weights = path.with_suffix(".safetensors")
        tensors = {name.replace(".", "|"): value for name, value in read_checkpoint(weights).items()}
        official = tmp_path / "official.pth"
        torch.save({"model": tensors | {"encoder|weight": torch.ones(1)}}, official)
        with pytest.raises(WeightsError, match=r"weights of the encoder do not fit .* unexpected: weight"):
            obverse.load(path, weights=[official])
        torch.save(tensors, official)
        image = picture(40, 40)
        assert obverse.load(path, weights=[official]).rate(image) == obverse.load(path).rate(image)


BUNDLED = {
    point.name: point for point in importlib.metadata.distribution("obverse").entry_points.select(group="obverse")
}


class TestPluginsByThemselves:
    """With the core alone beside it, a plugin has all that its codecs need: deleting the others breaks nothing."""

    @pytest.fixture(params=sorted(BUNDLED.keys() - {"core"}))
    def plugin(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        alone = Registry(entry_points=[BUNDLED["core"], BUNDLED[request.param]])
        for module in ("checkpoints", "config", "pipeline"):
            monkeypatch.setattr(f"obverse.{module}.registry", lambda: alone)
        self.registry = alone
        return str(request.param)

    def test_codecs_have_their_parts(self, plugin: str) -> None:
        codecs = [component.name for component in self.registry.components("codec")]
        for name in codecs:
            parts = load_config(name).parts
            for part in PARTS:
                assert self.registry.get(part, parts[part]["name"]).plugin in ("core", plugin)

    @pytest.mark.parametrize("plugin", ["lumina", "vqgan"], indirect=True)
    def test_tokenizers_of_taming_transformers_load(self, plugin: str, tmp_path: Path) -> None:
        """Chameleon's `vqgan.ckpt` is such a file."""
        part = "chameleon" if plugin == "lumina" else "vqgan"
        body = {
            "name": "tiny",
            "encoder": {"name": part, "embed_dim": 4, "z_channels": 4, "width": 32, "multipliers": [1, 1], "blocks": 1},
            "quantizer": {"name": part, "size": 16, "dim": 4},
            "prior": {"name": "uniform"},
            "coder": {"name": "range"},
        }
        path, weights = tmp_path / "tiny.yaml", tmp_path / "vqgan.ckpt"
        path.write_text(json.dumps(body), encoding="utf-8")
        modules = build(load_config(path)).modules
        ours = {
            f"{part}.{k}": v for part, module in modules.items() for k, v in fill(module, part).state_dict().items()
        }
        official = {
            name.removeprefix("encoder.").replace("quantizer.", "quantize."): tensor for name, tensor in ours.items()
        }
        assert TokenizerFile().translate(official).keys() == ours.keys()
        torch.save({"state_dict": official | {"loss.logvar": torch.zeros(1)}, "epoch": 3}, weights)
        codec = obverse.load(path, weights=[weights])
        for part, module in codec.pipeline.modules.items():
            assert same(module.state_dict(), modules[part].state_dict())
        assert codec.decompress(codec.compress(picture(16, 8))).size == (16, 8)
