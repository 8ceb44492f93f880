"""Strings that CompressAI wrote become streams, symbol for symbol."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import test_elic
import test_hyperprior
import torch
from goldens import ROOT, Golden
from safetensors.torch import load_file
from torch import Tensor

from obverse import container
from obverse.cli import main
from obverse.codec import Codec, from_config
from obverse.compressai_streams import read_example, transcode
from obverse.config import CodecConfig
from obverse.errors import CorruptError, UnsupportedInputError, WeightsError
from obverse.images import read_image

pytestmark = pytest.mark.parity


def flat(names: Any) -> Iterator[str]:
    if isinstance(names, str):
        yield names
    else:
        for name in names:
            yield from flat(name)


def strings(golden: Golden) -> list[bytes]:
    return [(golden.folder / name).read_bytes() for name in flat(golden.config["strings"])]


def hyperprior_config(golden: Golden) -> CodecConfig:
    return test_hyperprior.Fixture(golden).codec.config


def official_symbols(io: dict[str, Tensor]) -> Tensor:
    """In coding order, z first."""
    if "coded_y_symbols" in io:
        names = [name for name in ("coded_z_symbols", "coded_y_symbols") if name in io]
    else:
        count = sum(name.endswith("_symbols") for name in io)
        names = [f"coded_{i}_symbols" for i in range(count)]
    return torch.cat([io[name].flatten() for name in names]).long()


def codecs(golden: Golden) -> tuple[Codec, Codec]:
    config = hyperprior_config(golden) if "architecture" in golden.config else test_elic.config_of(golden)
    return from_config(config, numerics="native"), from_config(config)


FIXTURES = [
    pytest.param(*param.values, id=f"{system}-{param.id}", marks=param.marks)
    for system, params in (("compressai", test_hyperprior.fixtures()), ("elic", test_elic.folders()))
    for param in params
]


@pytest.mark.parametrize("golden", FIXTURES)
def test_symbols_and_picture_are_the_official_ones(golden: Golden) -> None:
    reader, writer = codecs(golden)
    io = golden.tensors()
    expected = io["decompress_x_hat"]
    height, width = expected.shape[2:]
    data = transcode(strings(golden), width, height, reader, writer)
    coded, _ = writer._decode(container.unpack(data))
    arrays: dict[str, list[tuple[Tensor | None, Tensor]]] = {}
    for part in coded:
        arrays.setdefault(part.name, []).append((part.positions, part.symbols[0].flatten()))
    # Contexts are coded along diagonals here, in raster order there: compare as arrays.
    found = [torch.cat([symbols for _, symbols in parts]) for parts in arrays.values()]
    if golden.config.get("architecture") == "mbt2018" or "cheng" in golden.config.get("architecture", ""):
        y = arrays["y"]
        order = torch.cat([positions for positions, _ in y if positions is not None])
        cells = height // 16 * (width // 16)
        found[1] = torch.empty_like(found[1]).scatter_(0, order, found[1]).view(-1, cells).T.flatten()
    assert torch.equal(torch.cat(found), official_symbols(io))
    picture = torch.from_numpy(np.asarray(writer.decompress(data)).copy()).permute(2, 0, 1)
    difference = picture / 255 - expected[0].clamp(0, 1)
    assert difference.abs().mean() < 1.5 / 255  # rounding to 8 bits is a quarter


def of_one_hyperprior() -> list[Any]:
    """The first fixture with a string of y and one of z; a parameter that skips where there is none."""
    for param in FIXTURES:
        golden = param.values[0]
        if golden is not None and "architecture" in golden.config and len(strings(golden)) == 2:
            return [param]
    return [pytest.param(None, marks=pytest.mark.skip(reason="no fixture of a hyperprior"), id="none")]


EXAMPLES = of_one_hyperprior()


@pytest.mark.parametrize("golden", EXAMPLES)
class TestRefusals:
    def test_of_damaged_strings(self, golden: Golden) -> None:
        reader, writer = codecs(golden)
        height, width = golden.tensors()["decompress_x_hat"].shape[2:]
        given = strings(golden)
        for bad in ([given[0][:-4], given[1]], [given[0] + bytes(4), given[1]], given[::-1], [*given, given[1]]):
            with pytest.raises(CorruptError):
                transcode(bad, width, height, reader, writer)
        with pytest.raises(UnsupportedInputError, match="multiples of 64"):
            transcode(given, width + 16, height, reader, writer)

    def test_of_a_checkpoint_without_tables(self, golden: Golden, tmp_path: Any) -> None:
        from dataclasses import replace

        from safetensors.torch import save_file

        kept = {k: v for k, v in load_file(golden.folder / "weights.safetensors").items() if "_cdf" not in k}
        save_file(kept, tmp_path / "bare.safetensors")
        config = replace(hyperprior_config(golden), weights=(tmp_path / "bare.safetensors",))
        reader = from_config(config, numerics="native")
        height, width = golden.tensors()["decompress_x_hat"].shape[2:]
        with pytest.raises(WeightsError, match="save it after update"):
            transcode(strings(golden), width, height, reader, reader)

    def test_example_files_and_the_command(
        self, golden: Golden, tmp_path: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        height, width = golden.tensors()["decompress_x_hat"].shape[2:]
        given = strings(golden)
        body = struct.pack(">BBIIB3I", 1, 0x02, height - 3, width - 5, 8, height // 64, width // 64, len(given))
        body += b"".join(struct.pack(">I", len(data)) + data for data in given)
        example = read_example(body)
        assert (example.picture, example.width, example.height) == ((width - 5, height - 3), width, height)
        assert (example.quality, example.strings) == (3, given)
        for damaged in (body[:20], body[:-1], body + b"x", bytes(len(body))):
            with pytest.raises(CorruptError):
                read_example(damaged)
        config = tmp_path / "codec.yaml"
        config.write_text(hyperprior_config(golden).to_yaml(), encoding="utf-8")
        source, target = tmp_path / "photo.bin", tmp_path / "photo.obv"
        source.write_bytes(body.replace(b"\x01\x02", b"\x01\x00", 1))
        assert main(["import", str(source), "--config", str(config)]) == 0
        assert "black border" in capsys.readouterr().err
        assert main(["decompress", str(target), str(tmp_path / "a.png"), "--config", str(config)]) == 0
        assert read_image(tmp_path / "a.png").pixels.shape == (height, width, 3)
        assert main(["import", str(source), "--config", str(config)]) == 1  # the output exists
        assert main(["import", str(source)]) == 2
        assert main(["import", str(source), str(source), "--config", str(config), "-f"]) == 2


def test_fixtures_are_looked_for_under_the_root() -> None:
    assert ROOT.name
