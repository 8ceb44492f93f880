"""`info`, `list` and `plugins`."""

from __future__ import annotations

from pathlib import Path

import pytest

from obverse import load
from obverse.container import unpack
from obverse_registry import Component, Registry, hookimpl, registry

TOY = ("-m", "toy")


def test_info_prints_every_field(obverse, stream) -> None:
    done = obverse("info", stream)
    lines = dict(line.split(":", 1) for line in done.out.splitlines())
    shown = {key: value.strip() for key, value in lines.items()}
    parsed = unpack(stream.read_bytes())
    assert shown == {
        "file": "stream.obv",
        "version": "1",
        "codec": "toy",
        "installed": "yes",
        "fingerprint": parsed.header.fingerprint.hex(),
        "width": "50",
        "height": "40",
        "quality": "1",
        "coder": "range",
        "numerics": "exact",
        "specification": "1",
        "bytes": "22",
        "payload bytes": "6",
        "header bytes": "16",
        "bpp": "0.088",
        "bpp payload": "0.024",
        "symbol check": f"{parsed.symbol_check:04x}",
        "metadata": "{}",
    }


def test_info_as_json_and_from_standard_input(obverse, stream) -> None:
    obverse("compress", "photo.png", "named.obv", *TOY, "--metadata")
    reports = obverse("info", stream, "named.obv", "--json").json
    assert [report["file"] for report in reports] == ["stream.obv", "named.obv"]
    assert [report["metadata"] for report in reports] == [{}, {"name": 3}]
    piped = obverse("info", "-", "--json", stdin=stream.read_bytes()).json
    assert piped == [reports[0] | {"file": "-"}]
    text = obverse("info", stream, "named.obv").out
    assert [block.split()[1] for block in text.split("\n\n")] == ["stream.obv", "named.obv"]


def test_info_of_a_codec_that_is_not_installed(obverse, stream, configs) -> None:
    registry().remove("toys")
    try:
        (report,) = obverse("info", stream, "--json").json
        assert (report["codec"], report["width"]) == ("?", 50)
        assert report["installed"].startswith("no: no installed codec wrote this stream (tag ")
    finally:
        from toys import Installed

        registry().add(Installed(tuple(configs.values())), "toys")


def test_info_without_files_is_a_usage_error(obverse) -> None:
    obverse("info").failed(2, "FILE", "see obverse info --help")


def test_list_shows_every_component_in_columns(obverse) -> None:
    done = obverse("list")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["KIND", "NAME", "PLUGIN", "SUMMARY"]
    assert [row[:3] for row in rows[1:]] == [[c.kind, c.name, c.plugin] for c in registry().components()]
    assert done.err == ""


def test_list_can_be_narrowed(obverse) -> None:
    assert {row["kind"] for row in obverse("list", "--kind", "coder", "--json").json} == {"coder"}
    assert {row["name"] for row in obverse("list", "toy*", "--json").json} == {"toy", "toy-llama", "toy-hyper"}
    assert {row["plugin"] for row in obverse("list", "--plugin", "toys", "--json").json} == {"toys"}
    assert obverse("list", "nothing-*", "--json").json == []
    nothing = obverse("list", "nothing-*")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing found\n")
    obverse("list", "-k", "codecs").failed(2, "no kind 'codecs'; did you mean 'codec'?", "kinds: encoder,")


def test_list_of_codecs_shows_weights(obverse) -> None:
    (row,) = obverse("list", "toy", "--codecs", "--json").json
    assert (row["kind"], row["plugin"], row["weights"]) == ("codec", "toys", "yes, 0.0 MB")


def test_list_of_codecs_shows_sizes(obverse) -> None:
    rows = {row["name"]: row for row in obverse("list", "toy*", "--codecs", "--json").json}
    sizes = {name: (row["tokens"], row["side"], row["codebook"]) for name, row in rows.items()}
    assert sizes == {"toy": (256, 256, 16), "toy-llama": (256, 256, 16), "toy-hyper": (None, 256, None)}
    for name, row in rows.items():
        modules = load(name).pipeline.modules.values()
        assert row["parameters"] >= sum(p.numel() for m in modules for p in m.parameters()) > 0
    table = obverse("list", "toy*", "--codecs").out.splitlines()
    heads = "KIND", "NAME", "PLUGIN", "QUALITIES", "TOKENS", "SIDE", "CODEBOOK", "PARAMETERS", "WEIGHTS", "LICENCE"
    assert table[0].split() == list(heads)
    assert table[2].split()[:7] == ["codec", "toy-hyper", "toys", "2", "-", "256", "-"]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more installed plugin, which fails to load."""
    site = tmp_path / "site"
    metadata = site / "odd-2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[obverse]\nodd = odd_plugin\n")
    (site / "odd_plugin.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.syspath_prepend(site)
    found = Registry()
    assert [plugin.name for plugin in found.failures()] == ["odd"]
    for place in ("obverse_registry", "obverse.cli.show", "obverse.config", "obverse.identity", "obverse.pipeline"):
        monkeypatch.setattr(f"{place}.registry", lambda: found)


REASON = "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"


def test_a_broken_plugin_is_a_warning(obverse, broken, photo) -> None:
    done = obverse("list")
    assert (done.code, done.err) == (0, f"obverse: plugin 'odd' failed to load: {REASON}\n")
    assert "pocket-vq" in done.out
    done = obverse("list", "--json", "--kind", "coder")
    assert {row["name"] for row in done.json} == {"range", "raw", "ideal"}
    assert done.err.startswith("obverse: plugin 'odd'")


def test_plugins_shows_the_broken_one(obverse, broken) -> None:
    rows = {row["name"]: row for row in obverse("plugins", "--json").json}
    assert rows["odd"] == {
        "name": "odd",
        "distribution": "odd",
        "version": "2.0",
        "kinds": "",
        "components": "0",
        "error": REASON,
    }
    assert (rows["core"]["error"], rows["core"]["distribution"]) == ("", "obverse")
    done = obverse("plugins")
    assert (done.code, done.err) == (0, "")
    assert REASON in done.out


def test_what_a_broken_plugin_would_have_provided_names_it(obverse, broken, photo, configs) -> None:
    obverse("compress", photo, "-m", "odd-codec").failed(2, "'odd-codec'", f"failed to load: odd ({REASON})")
    words = "compress", photo, "--config", configs["toy"], "--prior", "odd-prior"
    obverse(*words).failed(2, "'odd-prior'", f"failed to load: odd ({REASON})")
    assert obverse("compress", photo, "x.obv", "--config", configs["toy"]).code == 0
    obverse("decompress", "x.obv").failed(4, "no installed codec wrote this stream", "failed to load: ['odd']")


class Hollow:
    """A plugin whose records lead nowhere."""

    @hookimpl
    def obverse_components(self) -> list[Component]:
        return [
            Component("codec", "hollow", "no_such_package:codec.yaml"),
            Component("prior", "hollow", "no_such_package.prior:Prior"),
        ]


def test_records_that_lead_nowhere(obverse, stream) -> None:
    registry().add(Hollow(), "hollow")
    try:
        obverse("compress", "photo.png", "-m", "hollow").failed(
            4, "codec 'hollow' of plugin 'hollow'", "no_such_package"
        )
        obverse("compress", "photo.png", *TOY, "--prior", "hollow").failed(4, "prior 'hollow' of plugin 'hollow'")
        assert obverse("decompress", stream, "out.png").code == 0
        (row,) = obverse("list", "hollow", "--codecs", "--json").json
        assert row["weights"].startswith("unreadable: codec 'hollow' of plugin 'hollow'")
    finally:
        registry().remove("hollow")
