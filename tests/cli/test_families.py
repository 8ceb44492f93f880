"""Codecs with one checkpoint per quality, and sizes that choose a quality."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import toys
from PIL import Image

from obverse.cli import code
from obverse.container import unpack
from obverse_registry import Component, hookimpl, registry

FAMILY = ("-m", "family")


class Family:
    """A plugin with one codec.

    Args:
        path: of its configuration, in an importable folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @hookimpl
    def obverse_components(self) -> list[Component]:
        return [Component("codec", self.path.stem, f"{self.path.parent.name}:{self.path.name}", licence="MIT")]


@pytest.fixture
def family(obverse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of an installed codec with three checkpoints, of 4, 16 and 64 codes."""
    folder = tmp_path / "family_package"
    folder.mkdir()
    path = toys.toy_family_config(folder, name="family")
    monkeypatch.syspath_prepend(tmp_path)
    registry().add(Family(path), "family")
    code._loaded.clear()
    yield path
    registry().remove("family")


def quality_of(path: str) -> int:
    return unpack(Path(path).read_bytes()).header.quality + 1


def test_qualities_are_chosen_and_found_again(obverse, family, photo) -> None:
    sizes = []
    for words, quality in ((("-q", "1"), 1), ((), 2), (("-q", "3"), 3)):
        done = obverse("compress", photo, "x.obv", "-f", *FAMILY, *words, "--json")
        (result,) = done.json["results"]
        assert (result["codec"], result["quality"], quality_of("x.obv")) == ("family", quality, quality)
        sizes.append(result["bytes"])
        assert obverse("decompress", "x.obv", "x.png", "-f").code == 0
        found = Path("x.png").read_bytes()
        for named in (FAMILY, ("--config", family)):
            assert obverse("decompress", "x.obv", "x.png", "-f", *named).code == 0
            assert Path("x.png").read_bytes() == found
        (report,) = obverse("info", "x.obv", "--json").json
        assert (report["codec"], report["installed"], report["quality"]) == ("family", "yes", quality)
        shown = obverse("reconstruct", photo, "y.png", "-f", *FAMILY, *words, "--json").json
        assert shown["bytes"] == result["bytes"]
        assert obverse("generate", *FAMILY, *words, "--size", "32", "-o", "y.png", "-f").code == 0
        estimated = obverse("compress", photo, *FAMILY, *words, "--entropy-estimation", "--json").json["results"][0]
        assert estimated["bits_estimated"] == 2 * quality * 4 * 3
    assert sizes == sorted(set(sizes))


def test_mixed_streams(obverse, family, photo) -> None:
    for quality in (1, 2, 3):
        assert obverse("compress", photo, f"{quality}.obv", *FAMILY, "-q", quality).code == 0
    done = obverse("decompress", "1.obv", "2.obv", "3.obv", "-d", "out", "--json")
    assert [result["codec"] for result in done.json["results"]] == ["family"] * 3
    assert len({path.read_bytes() for path in Path("out").iterdir()}) == 3


def test_one_network_with_several_qualities(obverse, photo) -> None:
    plain = obverse("compress", photo, "x.obv", "-m", "toy-hyper", "--json").json["results"][0]
    assert plain["quality"] == 1
    assert (
        obverse("compress", photo, "y.obv", "-m", "toy-hyper", "-q", "2", "--json").json["results"][0]["quality"] == 2
    )
    limit = str(Path("y.obv").stat().st_size)
    done = obverse("compress", photo, "z.obv", "-m", "toy-hyper", "--max-bytes", limit, "--json").json["results"][0]
    assert (done["quality"], done["bytes"] <= int(limit)) == (2, True)
    smallest = min(plain["bytes"], int(limit))
    words = "-m", "toy-hyper", "--max-bytes", str(smallest - 1)
    obverse("compress", photo, "no.obv", *words).failed(
        2, "photo.png", f"fit in {smallest - 1} bytes: the smallest size"
    )


def test_a_size_chooses_the_quality(obverse, family, photo) -> None:
    sizes = {}
    for quality in (1, 2, 3):
        obverse("compress", photo, f"{quality}.obv", *FAMILY, "-q", quality)
        sizes[quality] = Path(f"{quality}.obv").stat().st_size
    for quality, size in sizes.items():
        for words in (("--max-bytes", size), ("--target-bpp", 8 * (size + 0.5) / 2000)):
            done = obverse("compress", photo, "x.obv", "-f", *FAMILY, *words, "--json").json["results"][0]
            assert (done["quality"], done["bytes"]) == (quality, size)
            assert Path("x.obv").read_bytes() == Path(f"{quality}.obv").read_bytes()
    kept = obverse("compress", photo, "x.obv", "-f", *FAMILY, "-q", "1", "--max-bytes", "999", "--json").json["results"]
    assert kept[0]["quality"] == 1, "a quality that is named stays"
    done = obverse("compress", photo, "no.obv", *FAMILY, "--max-bytes", "9")
    done.failed(2, "photo.png", "does not fit in 9 bytes: the smallest size reached is")
    assert not Path("no.obv").exists()


def test_many_pictures_share_networks(obverse, family, monkeypatch) -> None:
    made: list[int] = []
    from obverse.codec import from_config

    monkeypatch.setattr(
        "obverse.codec.from_config", lambda config, *a: made.append(config.quality) or from_config(config, *a)
    )
    for number in range(3):
        Image.fromarray(toys.picture(50, 40, seed=number)).save(f"{number}.png")
    done = obverse("compress", "0.png", "1.png", "2.png", "-d", "out", *FAMILY, "--max-bytes", "60")
    assert (done.code, made) == (0, [2, 3])
    assert len(code._loaded) == 2
    obverse("compress", "0.png", "-f", "-m", "toy")
    assert [codec.name for codec in code._loaded.values()] == ["toy"]


def test_weights_are_of_one_quality(obverse, family, photo) -> None:
    third = family.parent / "family-3.safetensors"
    assert obverse("compress", photo, "x.obv", *FAMILY, "-q", "3", "-w", third).code == 0
    assert obverse("decompress", "x.obv", "x.png", *FAMILY, "-w", third).code == 0
    assert obverse("compress", photo, "y.obv", *FAMILY, "-q", "3").code == 0
    assert Path("x.obv").read_bytes() == Path("y.obv").read_bytes()
    words = *FAMILY, "-w", third, "--max-bytes", "60"
    obverse("compress", photo, "z.obv", *words).failed(2, "--weights are of one quality of codec 'family'")
    assert obverse("compress", photo, "z.obv", *words, "-q", "3").code == 0


def test_a_folder_of_official_files_serves_all_qualities(obverse, family, photo) -> None:
    folder = Path("official")
    folder.mkdir()
    for number in "123":
        (family.parent / f"family-{number}.safetensors").rename(folder / number)
    for number in "123":
        assert obverse("compress", photo, f"{number}.obv", *FAMILY, "-q", number, "-w", folder).code == 0
        assert obverse("decompress", f"{number}.obv", f"{number}.png", *FAMILY, "-w", folder).code == 0
    assert obverse("compress", photo, "x.obv", *FAMILY, "-w", folder, "--max-bytes", "60").code == 0
    assert Path("x.obv").stat().st_size <= 60


def test_what_is_missing_is_said_in_one_line(obverse, family, photo) -> None:
    (family.parent / "family-3.safetensors").unlink()
    expected = "family-3.safetensors", "(codec 'family' at quality 3)", "the official files: https://example.org/3"
    obverse("compress", photo, "x.obv", *FAMILY, "-q", "3").failed(4, *expected)
    obverse("generate", *FAMILY, "-q", "3").failed(4, *expected)
    assert obverse("compress", photo, "x.obv", *FAMILY, "-q", "1").code == 0
    obverse("compress", photo, *FAMILY, "-q", "4").failed(
        2, "quality 4 does not exist: codec 'family' has qualities 1 to 3"
    )


def test_print_config(obverse, family, photo) -> None:
    printed = obverse("compress", *FAMILY, "-q", "3", "--print-config").out
    Path("third.yaml").write_text(printed)
    assert obverse("compress", photo, "x.obv", "--config", "third.yaml").code == 0
    assert obverse("decompress", "x.obv", "x.png").code == 0, "by the installed codec"
    assert quality_of("x.obv") == 3


def test_convert_checks_one_checkpoint(obverse, family) -> None:
    third = family.parent / "family-3.safetensors"
    assert obverse("convert", third, "x.safetensors", "-m", "family", "-q", "3").code == 0
    done = obverse("convert", third, "y.safetensors", "-m", "family")
    done.failed(4, "do not fit the quantizer of codec 'family' at quality 2")


class TestList:
    def row(self, obverse) -> dict[str, object]:
        (row,) = obverse("list", "family", "--codecs", "--json").json
        return dict(row)

    def test_qualities_and_sources(self, obverse, family) -> None:
        row = self.row(obverse)
        assert (row["qualities"], row["codebook"], row["tokens"]) == (3, 16, 256)
        assert row["sources"] == [f"https://example.org/{quality}" for quality in (1, 2, 3)]
        assert str(row["weights"]).startswith("yes, ")
        assert "sources" not in obverse("list", "toy", "--codecs", "--json").json[0]
        table = obverse("list", "family", "--codecs").out
        assert "QUALITIES" in table
        assert "example.org" not in table

    def test_weights_that_are_there(self, obverse, family) -> None:
        (family.parent / "family-2.safetensors").unlink()
        assert self.row(obverse)["weights"] == "qualities 1, 3 of 3"
        for quality in (1, 3):
            (family.parent / f"family-{quality}.safetensors").unlink()
        assert self.row(obverse)["weights"] == "no: family-1.safetensors, family-2.safetensors and 1 more"

    def test_sizes_are_remembered(self, obverse, family, cache, monkeypatch) -> None:
        before = self.row(obverse)
        assert "family" in json.loads((cache / "figures.json").read_text())
        with monkeypatch.context() as patched:
            patched.setattr("obverse.pipeline.build", None)
            assert self.row(obverse) == before
        family.write_text(family.read_text().replace("size: 16", "size: 32"))
        assert self.row(obverse)["codebook"] == 32, "until the configuration changes"

    @pytest.mark.parametrize("content", [b"", b"[]", b'{"family": 3}', b'{"family": {"key": ""}}', b"\xff"])
    def test_a_memory_that_is_damaged(self, obverse, family, cache, content: bytes) -> None:
        before = self.row(obverse)
        (cache / "figures.json").write_bytes(content)
        assert self.row(obverse) == before

    def test_a_memory_of_other_figures(self, obverse, family, cache) -> None:
        before = self.row(obverse)
        pages = json.loads((cache / "figures.json").read_text())
        pages["family"]["figures"]["unknown"] = 1
        (cache / "figures.json").write_text(json.dumps(pages))
        assert self.row(obverse) == before

    def test_a_memory_that_cannot_be_kept(self, obverse, family, monkeypatch) -> None:
        Path("file").write_text("")
        monkeypatch.setenv("OBVERSE_CACHE", "file")
        done = obverse("list", "family", "--codecs")
        assert (done.code, done.err) == (0, "")
        assert Path("file").read_text() == ""
