"""Weights in files, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from obverse.errors import WeightsError
from obverse.weights import load_weights, read_metadata, read_tensors, write_tensors


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
        with pytest.raises(WeightsError, match=r"w\.safetensors' cannot be read as safetensors"):
            load_weights([parts.file], parts.modules)
        with pytest.raises(WeightsError, match="cannot be read as safetensors"):
            read_metadata(parts.file)

    def test_files_that_do_not_exist(self, parts: Parts, tmp_path: Path) -> None:
        for path in (parts.file, tmp_path):
            with pytest.raises(WeightsError, match="cannot be read as safetensors"):
                load_weights([path], parts.modules)
