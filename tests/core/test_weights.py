"""Weights in files, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toys import toy_config, toy_hyper_config

import obverse
from obverse.config import load_config
from obverse.errors import ConfigError, WeightsError
from obverse.pipeline import build, build_hollow
from obverse.priors import UniformPrior
from obverse.weights import load_weights, read_metadata, read_tensors, write_tensors
from obverse_registry import Component, hookimpl, registry


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "prior.wide.weight": torch.randn(6, 40, generator=generator),
        "encoder.conv.weight": torch.randn(5, 4, 3, 3, generator=generator)
        * torch.logspace(-4, 2, 5)[:, None, None, None],
        "encoder.conv.bias": torch.randn(5, generator=generator),
        "prior.zeros": torch.zeros(3, 7),
        "prior.tables": torch.arange(2**24 - 8, 2**24).view(2, 4).int(),
    }


class TestStorage:
    def test_float16(self, tmp_path: Path) -> None:
        file = tmp_path / "w.safetensors"
        write_tensors(file, tensors(), {}, int8=False)
        read = read_tensors(file)
        assert read.keys() == tensors().keys()
        for key, value in tensors().items():
            torch.testing.assert_close(read[key].to(value.dtype), value, rtol=2**-10, atol=2**-24)
        assert torch.equal(read["prior.tables"], tensors()["prior.tables"])

    def test_int8(self, tmp_path: Path) -> None:
        """Half a step of 1/127 of the largest entry of each row."""
        file = tmp_path / "w.safetensors"
        write_tensors(file, tensors(), {}, int8=True)
        read = read_tensors(file)
        assert read.keys() == tensors().keys()
        for key, value in tensors().items():
            if value.ndim >= 2 and value.is_floating_point():
                step = value.flatten(1).abs().amax(1) / 127
                error = (read[key] - value).flatten(1).abs().amax(1)
                assert (error <= step * 0.501).all()
                assert read[key].dtype == torch.float32
        assert torch.equal(read["prior.tables"], tensors()["prior.tables"])
        assert torch.equal(read["prior.zeros"], torch.zeros(3, 7))

    def test_int8_is_a_quarter_of_float32(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "w", {"a.b": torch.randn(200, 200)}, {}, int8=True)
        assert (tmp_path / "w").stat().st_size < 200 * 200 * 1.1

    def test_a_tensor_that_is_called_scale_is_no_scale(self, tmp_path: Path) -> None:
        given = {"prior.norm": torch.ones(3), "prior.norm.scale": torch.ones(3), "prior.scale": torch.ones(2, 2)}
        write_tensors(tmp_path / "w", given, {}, int8=True)
        assert read_tensors(tmp_path / "w").keys() == given.keys()

    def test_same_tensors_same_file(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write_tensors(tmp_path / name, tensors(), {"source": "a test"}, int8=True)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_metadata(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "w", tensors(), {"source": "a test"}, int8=False)
        assert read_metadata(tmp_path / "w") == {"source": "a test"}
        save_file({"a": torch.ones(1)}, tmp_path / "bare")
        assert read_metadata(tmp_path / "bare") == {}


class Parts:
    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "w.safetensors"
        self.modules = {"encoder": nn.Linear(3, 4), "prior": nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))}

    def state(self) -> dict[str, Tensor]:
        return {f"{name}.{k}": v for name, module in self.modules.items() for k, v in module.state_dict().items()}


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


class TestLoading:
    def test_every_tensor_arrives(self, parts: Parts) -> None:
        given = {key: torch.rand_like(value) for key, value in parts.state().items()}
        save_file(given, parts.file)
        load_weights([parts.file], parts.modules)
        assert all(torch.equal(value, given[key]) for key, value in parts.state().items())

    def test_several_files_are_one(self, parts: Parts, tmp_path: Path) -> None:
        given = parts.state()
        for prefix in ("encoder", "prior"):
            save_file({k: v for k, v in given.items() if k.startswith(prefix)}, tmp_path / prefix)
        load_weights([tmp_path / "encoder", tmp_path / "prior"], parts.modules)

    def test_tensors_of_other_parts_are_left_alone(self, parts: Parts) -> None:
        save_file(parts.state() | {"quantizer.codebook": torch.ones(2)}, parts.file)
        load_weights([parts.file], parts.modules)

    def test_missing_unexpected_and_other_shapes_are_named(self, parts: Parts) -> None:
        given = parts.state()
        del given["encoder.bias"]
        given |= {"encoder.offset": torch.ones(1), "encoder.weight": torch.ones(4, 5)}
        save_file(given, parts.file)
        message = (
            r"weights of the encoder do not fit \(.*w\.safetensors\): missing: bias; unexpected: offset; "
            r"other shapes: weight is \(4, 5\), expected \(4, 3\)"
        )
        with pytest.raises(WeightsError, match=message):
            load_weights([parts.file], parts.modules)

    def test_long_lists_are_cut(self, parts: Parts) -> None:
        save_file({key: value for key, value in parts.state().items() if key.startswith("encoder")}, parts.file)
        with pytest.raises(WeightsError, match=r"missing: 0\.bias, 0\.weight, 1\.bias, 1\.weight and 4 more"):
            load_weights([parts.file], parts.modules)

    def test_no_weights_at_all(self, parts: Parts) -> None:
        with pytest.raises(WeightsError, match=r"\(no weights given\): missing: bias, weight"):
            load_weights([], parts.modules)
        load_weights([], {})

    @pytest.mark.parametrize("content", [b"", b"\x80\x02pickle", b"\xff" * 100, b'\x10\0\0\0\0\0\0\0{"a": 1}        '])
    def test_files_of_other_kinds_are_refused(self, parts: Parts, content: bytes) -> None:
        parts.file.write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.safetensors' (are no checkpoint|cannot be read as)"):
            load_weights([parts.file], parts.modules)
        with pytest.raises(WeightsError, match="cannot be read as safetensors"):
            read_metadata(parts.file)

    def test_files_that_do_not_exist(self, parts: Parts, tmp_path: Path) -> None:
        for path, message in ((parts.file, "cannot be read: No such file"), (tmp_path, "folder without safetensors")):
            with pytest.raises(WeightsError, match=message):
                load_weights([path], parts.modules)

    def test_a_part_that_no_file_holds(self, parts: Parts) -> None:
        save_file({key: value for key, value in parts.state().items() if key.startswith("encoder")}, parts.file)
        with pytest.raises(WeightsError, match=r"of the prior do not fit .* no file holds tensors of the prior"):
            load_weights([parts.file], parts.modules)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_modules_decide_the_dtype(self, parts: Parts, dtype: torch.dtype) -> None:
        given = {key: torch.rand_like(value).to(dtype) for key, value in parts.state().items()}
        save_file(given, parts.file)
        assert {value.dtype for value in read_tensors(parts.file).values()} == {dtype}
        load_weights([parts.file], parts.modules)
        for key, value in parts.state().items():
            assert torch.equal(value, given[key].float())

    def test_files_can_change_while_the_modules_live(self, parts: Parts) -> None:
        given = {key: torch.rand_like(value) for key, value in parts.state().items()}
        save_file(given, parts.file)
        load_weights([parts.file], parts.modules)
        parts.file.write_bytes(b"")
        assert all(torch.equal(value, given[key]) for key, value in parts.state().items())

    def test_modules_without_data_are_filled(self, parts: Parts) -> None:
        given = {key: torch.rand_like(value) for key, value in parts.state().items()}
        save_file(given, parts.file)
        parts.modules["encoder"].to("meta")
        load_weights([parts.file], parts.modules)
        assert all(torch.equal(value, given[key]) for key, value in parts.state().items())


class Drawn(UniformPrior, nn.Module):
    """A prior that cannot be made without data: it looks at its weights, or derives a buffer from them."""

    def __init__(self, *, alphabets: dict[str, int | None], looks: bool) -> None:
        nn.Module.__init__(self)
        super().__init__(alphabets=alphabets)
        self.layer = nn.Linear(2, 2)
        if looks:
            self.largest = self.layer.weight.max().item()
        self.register_buffer("square", self.layer.weight.detach() ** 2)
        self.register_buffer("table", torch.arange(3.0), persistent=False)


class Priors:
    """A plugin of this process."""

    @hookimpl
    def obverse_components(self) -> list[Component]:
        return [Component("prior", "drawn", f"{__name__}:Drawn")]


class TestWithoutData:
    def test_parameters_have_no_data_and_buffers_do(self, tmp_path: Path) -> None:
        config = load_config(toy_hyper_config(tmp_path))
        for name, module in build_hollow(config).modules.items():
            assert all(parameter.is_meta for parameter in module.parameters())
            assert not any(buffer.is_meta for buffer in module.buffers())
            expected = build(config).modules[name].state_dict()
            assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in expected.items()}
        assert not any(p.is_meta for module in build(config).modules.values() for p in module.parameters())

    @pytest.mark.parametrize("looks", [True, False])
    def test_parts_that_need_their_data_have_it(self, tmp_path: Path, looks: bool) -> None:
        registry().add(Priors(), "priors")
        try:
            config = load_config(toy_config(tmp_path), parts={"prior": "drawn"}, overrides=[f"prior.looks={looks}"])
            prior = build_hollow(config).modules["prior"]
        finally:
            registry().remove("priors")
        assert not any(tensor.is_meta for tensor in [*prior.parameters(), *prior.buffers()])
        given = {f"prior.{key}": torch.rand_like(value) for key, value in prior.state_dict().items()}
        save_file(given, tmp_path / "w")
        load_weights([tmp_path / "w"], {"prior": prior})
        assert all(torch.equal(value, given[f"prior.{key}"]) for key, value in prior.state_dict().items())

    def test_a_configuration_that_is_wrong_says_the_same(self, tmp_path: Path) -> None:
        config = load_config(toy_config(tmp_path), overrides=["quantizer.dim=5"])
        with pytest.raises(ConfigError, match="do not fit"):
            build_hollow(config)


class Sourced:
    """A plugin of this process whose codec has its weights elsewhere."""

    @hookimpl
    def obverse_components(self) -> list[Component]:
        return [Component("codec", "toy", "sourced:toy.yaml", details={"source": "https://example.org/toy"})]


def test_missing_files_are_said_to_come_from_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sourced"
    folder.mkdir()
    toy_config(folder).with_suffix(".safetensors").unlink()
    monkeypatch.syspath_prepend(tmp_path)
    registry().add(Sourced(), "sourced")
    try:
        with pytest.raises(WeightsError, match=r"cannot be read: No such .*; the official files: https://example\.org"):
            obverse.load("toy")
    finally:
        registry().remove("sourced")
