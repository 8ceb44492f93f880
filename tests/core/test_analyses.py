"""What is read from a results folder, with one that is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluated import CODECS, write_results
from PIL import Image

from obverse.errors import OutputExistsError, UnsupportedInputError
from obverse.evaluation import analyses, paper
from obverse.evaluation.axes import axis
from obverse.evaluation.curves import chosen_curves, read_curves
from obverse.evaluation.tables import markdown


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


class TestCurves:
    def test_every_metric_has_its_curves(self, results: Path) -> None:
        told = analyses.rd_curves(results)
        assert list(told) == ["psnr-rgb", "ms-ssim-rgb", "niqe", "fid"]
        psnr = told["psnr-rgb"]
        assert (psnr["direction"], psnr["label"], psnr["decibel"]) == ("higher", "PSNR (rgb) [dB]", False)
        assert [curve["codec"] for curve in psnr["curves"]] == ["tokens", "costly", "hyper", "jpeg"]
        hyper = psnr["curves"][2]["points"]
        assert [point["quality"] for point in hyper] == ["1", "2", "3", "4"]
        assert hyper[0]["bpp"] == pytest.approx(0.10)
        assert (hyper[0]["value"], hyper[0]["images"]) == (pytest.approx(26.0), 2)

    def test_ms_ssim_is_in_decibel_of_the_mean(self, results: Path) -> None:
        told = analyses.rd_curves(results)["ms-ssim-rgb"]
        assert (told["decibel"], told["label"]) == (True, "MS-SSIM (rgb) [dB of the mean]")
        assert told["curves"][0]["points"][0]["value"] == pytest.approx(10.0)

    def test_values_that_are_missing(self, results: Path) -> None:
        niqe = analyses.rd_curves(results)["niqe"]
        assert [curve["codec"] for curve in niqe["curves"]] == ["tokens", "costly", "hyper"]
        assert niqe["direction"] == "lower"

    def test_metrics_of_the_set(self, results: Path) -> None:
        (tokens, *_) = analyses.rd_curves(results)["fid"]["curves"]
        assert tokens["points"][0]["value"] == pytest.approx(100 - 50 * 0.90)

    def test_a_file_says_what_its_folder_says(self, results: Path) -> None:
        (own,) = read_curves(results / "hyper.json", "psnr")
        within = next(curve for curve in read_curves(results, "psnr-rgb") if curve.codec == "hyper")
        assert [point.bpp for point in own.points] == pytest.approx([point.bpp for point in within.points])
        assert [point.value for point in own.points] == pytest.approx([point.value for point in within.points])

    def test_rates_are_told_apart(self, results: Path) -> None:
        (whole, *_), (payload, *_) = (read_curves(results, "psnr", rate) for rate in ("bpp", "bpp_payload"))
        assert payload.points[0].bpp == pytest.approx(0.95 * whole.points[0].bpp)
        assert "jpeg" not in [curve.codec for curve in read_curves(results, "psnr", "bpp_payload")]

    @pytest.mark.parametrize("names", [("psnr-rgb", "ms-ssim-rgb"), ("psnr", "ms-ssim")])
    def test_files_of_compressai(self, tmp_path: Path, names: tuple[str, str]) -> None:
        results = {names[0]: [27.9, 29.2], names[1]: [0.9, 0.99], "bpp": [0.11, 0.16], "encoding_time": [5.3, 5.2]}
        path = tmp_path / "old.json"
        path.write_text(json.dumps({"name": "bmshj2018", "description": "Inference (ans)", "results": results}))
        (psnr,), (msssim,) = read_curves(path, "psnr-rgb"), read_curves(path, "ms-ssim")
        assert (psnr.codec, psnr.source, psnr.axis.direction) == ("bmshj2018", "measured", "higher")
        assert [(point.bpp, point.value) for point in psnr.points] == [(0.11, 27.9), (0.16, 29.2)]
        assert [point.value for point in msssim.points] == pytest.approx([10, 20])
        path.write_text(json.dumps(results))  # the oldest have the lists alone
        assert read_curves(path, "psnr")[0].codec == "old"

    def test_points_without_a_value_are_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "paper.json"
        body = {"results": {"bpp": [0.3, 0.1, 0.2], "psnr-rgb": [30, None, float("inf")]}, "meta": {"source": "paper"}}
        path.write_text(json.dumps(body))
        (curve,) = read_curves(path, "psnr")
        assert (curve.source, [(point.bpp, point.value) for point in curve.points]) == ("paper", [(0.3, 30)])

    def test_chosen_codecs(self, results: Path) -> None:
        chosen = chosen_curves([results], "psnr", codecs=["jpeg", "hyper"])
        assert [curve.codec for curve in chosen] == ["hyper", "jpeg"]
        with pytest.raises(UnsupportedInputError, match=r"no results of 'jpg' \(codecs: tokens, "):
            chosen_curves([results], "psnr", codecs=["jpg"])

    def test_metrics_that_nobody_knows(self) -> None:
        told = axis("cuteness")
        assert (told.label, told.direction, told.shown(0.5)) == ("cuteness", None, 0.5)


class TestRatios:
    def test_ratios_multiply(self, results: Path) -> None:
        tokens, costly = analyses.ratio_split(results)
        assert (tokens["codec"], tokens["quality"], tokens["images"], tokens["coded"]) == ("tokens", "1", 2, "payload")
        assert tokens["tokenizer"] == pytest.approx(24 / 0.0625)
        assert tokens["prior"] == pytest.approx(0.0625 / (0.045 * 0.95))
        for row in (tokens, costly):
            assert row["overall"] == pytest.approx(row["tokenizer"] * row["prior"])
        assert costly["prior"] < 1

    def test_images_are_pooled_by_bits(self, tmp_path: Path) -> None:
        folder = write_results(tmp_path)
        lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        two = [line for line in lines if line["codec"] == "tokens"]
        two[0] |= {"width": 100, "height": 100, "bpp_fixed": 1.0, "bpp_payload": None, "bpp_estimated": 0.5}
        two[1] |= {"width": 100, "height": 300, "bpp_fixed": 2.0, "bpp_payload": 3.0, "bpp_estimated": 1.5}
        (folder / "samples.jsonl").write_text("\n".join(json.dumps(line) for line in two))
        (row,) = analyses.ratio_split(folder)
        assert (row["coded"], row["bpp_fixed"]) == ("estimated", (1 + 3 * 2) / 4)
        assert row["overall"] == pytest.approx(24 * 4 / (0.5 + 3 * 1.5))

    def test_published_ratios_follow(self, results: Path) -> None:
        rows = [row for row in analyses.ratio_split(results, paper=True) if row["source"] == "paper"]
        assert {row["codec"]: round(row["tokenizer"], 1) for row in rows} == {
            "VAR": 234.1, "Cosmos": 384.0, "LlamaGen": 438.9, "Lumina-mGPT": 472.6,
        }  # fmt: skip
        assert all(row["derived"] and row["overall"] is None for row in rows)


class TestTables:
    def test_times_of_networks_and_coder(self, results: Path) -> None:
        rows = analyses.coding_times(results)
        assert [row["codec"] for row in rows] == ["tokens", "costly", *["hyper"] * 4, *["jpeg"] * 3]
        assert (rows[0]["encoding"], rows[0]["encoding_coder"]) == pytest.approx((0.4, 0.1))
        assert (rows[0]["encoding_network"], rows[0]["decoding_network"]) == pytest.approx((0.3, 0.3))
        assert (rows[-1]["decoding"], rows[-1]["decoding_network"]) == (0.5, None)
        paper_rows = analyses.coding_times(results, paper=True)[len(rows) :]
        assert [row["source"] for row in paper_rows] == ["paper"] * 5
        assert paper_rows[1]["codec"] == "VAR"
        assert (paper_rows[1]["encoding"], paper_rows[1]["decoding"]) == (0.23, 0.29)
        assert all(set(row) >= set(rows[0]) for row in paper_rows)

    def test_models(self, results: Path) -> None:
        rows = analyses.model_table(results, paper=True)
        assert (rows[0]["codec"], rows[0]["parameters"], rows[0]["tokens"]) == ("tokens", 1_500_000, 256)
        assert (rows[3]["codec"], rows[3]["parameters"], rows[3]["qualities"]) == ("jpeg", None, 3)
        llamagen = next(row for row in rows if row["codec"] == "LlamaGen")
        assert (llamagen["codebook"], llamagen["parameters"], llamagen["source"]) == (16384, 3.1e9, "paper")
        assert all(set(row) >= set(rows[0]) for row in rows[4:])

    def test_tables_of_the_other_paper(self) -> None:
        tables = paper.tables()
        assert {name: len(rows) for name, rows in tables.items()} == {"table 1": 7, "table 2": 14, "table 3": 20}
        assert tables["table 1"][-1]["rFID"] == 0.89
        assert tables["table 3"][-4]["gFID, no guidance"] == 2.04
        assert all(row["source"] == "paper" for rows in tables.values() for row in rows)

    def test_markdown(self) -> None:
        rows = [{"name": "a|b", "size": 1_500_000, "rate": 0.12345}, {"name": "c"}]
        assert markdown(rows, {"name": "name", "size": "size|M", "rate": "bpp|.3f"}) == (
            "| name | size | bpp |\n| --- | ---: | ---: |\n| a\\|b | 1.5 M | 0.123 |\n| c | - | - |\n"
        )


class TestStrips:
    def test_pictures_and_their_originals(self, results: Path) -> None:
        strips = analyses.strips(results)
        assert [strip["filename"] for strip in strips] == ["a.png", "more/b.png"]
        assert strips[1]["reference"] == results / "pictures" / "reference" / "more" / "b.png.png"
        assert (strips[1]["width"], strips[1]["height"]) == (32, 48)
        assert len(strips[0]["pictures"]) == sum(len(qualities) for qualities in CODECS.values())
        first = strips[0]["pictures"][0]
        assert (first["codec"], first["quality"], first["path"].is_file()) == ("tokens", "1", True)
        assert first["bpp"] == pytest.approx(0.045 * 1.02)

    def test_pictures_that_were_not_kept(self, tmp_path: Path) -> None:
        assert analyses.strips(write_results(tmp_path / "none", pictures=False)) == []
        folder = write_results(tmp_path / "some")
        (folder / "pictures" / "tokens" / "1" / "a.png.png").unlink()
        (folder / "pictures" / "reference" / "a.png.png").unlink()
        strip = analyses.strips(folder)[0]
        assert strip["reference"] is None
        assert "tokens" not in [picture["codec"] for picture in strip["pictures"]]

    def test_sheet(self, results: Path) -> None:
        from obverse.evaluation.analysis_files import strip_sheet

        strip = analyses.strips(results)[0]
        everything, nearest = strip_sheet(strip), strip_sheet(strip, bpp=0.5)
        assert everything.shape[0] > nearest.shape[0]
        original = np.asarray(Image.open(strip["reference"]))
        assert any((everything[top : top + 32, :48] == original).all() for top in range(everything.shape[0] - 32))


class TestFiles:
    def test_everything_is_written(self, results: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from obverse.evaluation.analysis_files import write_analyses

        written = write_analyses(results, tmp_path / "out", with_paper=True, bpp=0.2)
        assert [str(path.relative_to(tmp_path / "out")) for path in written] == [
            "rd-psnr-rgb.png", "rd-ms-ssim-rgb.png", "rd-niqe.png", "rd-fid.png", "ratios.png",
            "strips/a.png.png", "strips/more-b.png.png", "tables.md", "analyses.json",
        ]  # fmt: skip
        for path in written[:-2]:
            with Image.open(path) as image:
                assert np.asarray(image.convert("L")).std() > 1
        data = json.loads(written[-1].read_text())
        assert data["ratios"] == analyses.ratio_split(results, paper=True)
        assert "| Lumina-mGPT | - | 56.110 |" in written[-2].read_text()
        with pytest.raises(OutputExistsError, match="rd-psnr-rgb"):
            write_analyses(results, tmp_path / "out")

    def test_figures_are_the_same_each_time(self, results: Path) -> None:
        pytest.importorskip("matplotlib")
        from obverse.evaluation import figures

        curves = read_curves(results, "psnr")
        for suffix in (".svg", ".pdf"):
            first, second = (figures.render(figures.rd_figure(curves), suffix) for _ in range(2))
            assert first == second

    def test_what_a_figure_shows(self, results: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from obverse.evaluation import figures

        path = tmp_path / "printed.json"
        body = {"name": "printed", "meta": {"source": "paper"}, "results": {"bpp": [0.2, 0.3], "psnr": [30, 31]}}
        path.write_text(json.dumps(body))
        (axes,) = figures.rd_figure(chosen_curves([results, path], "psnr")).axes
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert lines["printed (paper)"].get_linestyle() == "--"
        assert (lines["tokens"].get_linestyle(), lines["hyper"].get_linestyle()) == ("None", "-")
        assert axes.get_ylabel() == "PSNR (rgb) [dB]  ↑ better"
        assert axes.get_xscale() == "log"  # `tokens` lies below 0.1 bpp
        (axes,) = figures.rd_figure(read_curves(results / "jpeg.json", "psnr")).axes
        assert axes.get_xscale() == "linear"


def _spoil(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), r"run\.json.*no such file"),
        (lambda folder: (folder / "samples.jsonl").unlink(), r"samples\.jsonl.*no such file"),
        (_spoil("run.json", "{"), r"run\.json' is no JSON"),
        (_spoil("run.json", "[]"), "holds no keys"),
        (_spoil("run.json", '{"subjects": [], "metrics": {}}'), "has no subjects and metrics"),
        (_spoil("run.json", '{"subjects": {"a": 1}, "metrics": {}}'), "has no subjects and metrics"),
        (_spoil("samples.jsonl", '\n{"key": "x"}'), "line 2: not a sample"),
        (_spoil("samples.jsonl", "3"), "line 1: not a sample"),
        (_spoil("set_metrics.json", "3"), "holds no keys"),
    ],
)
def test_folders_that_hold_no_results(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    folder = write_results(tmp_path, pictures=False)
    spoil(folder)
    with pytest.raises(UnsupportedInputError, match=message):
        analyses.rd_curves(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("3", "holds no keys"),
        ('{"results": {"psnr-rgb": [1]}}', "no results with a list of bpp"),
        ('{"results": {"bpp": [1], "psnr-rgb": [1, 2]}}', "psnr-rgb and bpp are not of one length"),
        ('{"results": {"bpp": [1], "lpips-alex": [1]}}', r"has no psnr-rgb \(it has bpp, lpips-alex\)"),
        ('{"results": {"bpp": [1], "psnr-rgb": [null]}}', "has no value of psnr-rgb"),
    ],
)
def test_files_that_hold_no_results(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "codec.json"
    path.write_text(text)
    with pytest.raises(UnsupportedInputError, match=message):
        read_curves(path, "psnr")
