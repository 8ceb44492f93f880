"""`obverse plot`, `obverse bd-rate` and `obverse analyse`; and CompressAI's own plotter on our files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from evaluated import write_results
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

COMPRESSAI = Path.home() / ".cache" / "obverse" / "compressai"


@pytest.fixture
def results(folder) -> Path:
    return write_results(Path("results"))


class TestPlot:
    def test_a_folder(self, obverse, results) -> None:
        done = obverse("plot", results, "-o", "rd.png")
        assert (done.code, done.out, done.err) == (0, "rd.png\n", "")
        with Image.open("rd.png") as image:
            assert min(image.size) > 500
        obverse("plot", results).failed(1, "'rd.png' exists; use --force")
        assert obverse("plot", results, "-f").code == 0

    def test_files_and_formats(self, obverse, results) -> None:
        words = ["plot", "results/jpeg.json", "results/hyper.json", "--metric", "ms-ssim", "--title", "made up"]
        assert obverse(*words, "-o", "rd.svg", "--axis", "log").code == 0
        drawn = Path("rd.svg").read_text()
        assert all(word in drawn for word in ("MS-SSIM (rgb) [dB of the mean]", "↑ better", "jpeg", "hyper", "made up"))
        assert obverse(*words, "-o", "rd.pdf").code == 0
        assert Path("rd.pdf").read_bytes().startswith(b"%PDF")

    def test_json(self, obverse, results) -> None:
        told = obverse("plot", results, "--codec", "tokens", "--rate", "bpp_payload", "--json").json
        assert (told["metric"], list(told["curves"])) == ("psnr-rgb", ["tokens"])
        assert told["curves"]["tokens"][0]["bpp"] == pytest.approx(0.045 * 0.95)

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (["gone"], 1, "no such file"),
            (["results", "-o", "rd.gif"], 2, "figures cannot be written as 'rd.gif' (formats: .png, .svg, .pdf)"),
            (["results", "-o", "new/rd.png"], 1, "its folder does not exist"),
            (["results", "--metric", "vmaf"], 1, "has no vmaf (it has psnr-rgb, ms-ssim-rgb, niqe, fid)"),
            (["results", "--rate", "bits"], 2, "no rate 'bits' (rates: bpp, bpp_payload, bpp_estimated)"),
            (["results", "--codec", "jpg"], 1, "no results of 'jpg'"),
            ([], 2, "Missing argument"),
        ],
    )
    def test_refused(self, obverse, results, words, code, message) -> None:
        obverse("plot", *words).failed(code, message)


class TestBDRate:
    def test_two_files(self, obverse, results) -> None:
        done = obverse("bd-rate", "results/jpeg.json", "results/hyper.json", "--metric", "psnr-rgb")
        assert (done.code, done.err) == (0, "")
        anchor, heads, row = done.out.splitlines()
        assert anchor == "anchor: jpeg, metric: PSNR (rgb) [dB]"
        assert heads.split("  ")[0] == "TEST"
        assert row.split()[:4] == ["hyper", "pchip", "-46.036", "%"]

    def test_every_method_in_json(self, obverse, results) -> None:
        done = obverse(
            "bd-rate", "results/hyper.json", "results/jpeg.json", "--method", "akima", "--method", "pchip", "--json"
        )
        rows = done.json
        assert [row["method"] for row in rows] == ["akima", "pchip"]
        assert all(row["bd_rate_percent"] > 0 and 0 < row["quality_overlap"] < 1 for row in rows)
        assert all(row["bd_quality"] < 0 for row in rows)

    def test_some_cannot_be_compared(self, obverse, results) -> None:
        done = obverse("bd-rate", results, "--anchor", "jpeg")
        assert done.code == 6
        assert "no BD-rate: pchip needs at least 2 points, and tokens has 1" in done.err
        assert done.out.count("\n") == 5

    def test_none_can_be_compared(self, obverse, results) -> None:
        far = {"name": "far", "results": {"bpp": [5, 6], "psnr-rgb": [50, 51]}}
        Path("far.json").write_text(json.dumps(far))
        done = obverse("bd-rate", "results/jpeg.json", "far.json")
        assert done.code == 1
        assert "jpeg and far share no quality: 27 to 32.5 and 50 to 51" in done.err
        assert "jpeg and far share no rate" in done.err

    def test_doubtful_curves_are_told(self, obverse, results) -> None:
        odd = {"name": "odd", "results": {"bpp": [0.3, 0.4, 0.5], "psnr-rgb": [28, 31, 30]}}
        Path("odd.json").write_text(json.dumps(odd))
        done = obverse("bd-rate", "results/jpeg.json", "odd.json")
        assert done.code == 0
        assert "obverse: odd: psnr-rgb goes from 31 to 30 between 0.4 and 0.5 bpp" in done.err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["results", "--anchor", "jpg"], "no codec 'jpg' among the results (codecs: tokens, costly, hyper, jpeg)"),
            (["results/jpeg.json"], "only jpeg has psnr-rgb"),
            (["results", "--method", "spline"], "no method 'spline' (methods: cubic, pchip, akima)"),
        ],
    )
    def test_refused(self, obverse, results, words, message) -> None:
        obverse("bd-rate", *words).failed(2, message)


class TestAnalyse:
    def test_a_folder(self, obverse, results) -> None:
        done = obverse("analyse", results, "-o", "out", "--paper", "--bpp", "0.2")
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines()[-2:] == ["out/tables.md", "out/analyses.json"]
        assert all(Path(line).is_file() for line in done.out.splitlines())
        obverse("analyse", results, "-o", "out").failed(1, "exists; use --force")

    def test_refused(self, obverse, folder) -> None:
        obverse("analyse", ".").failed(1, "run.json", "no such file")


@pytest.mark.peers
@pytest.mark.parametrize("metric", ["psnr", "ms-ssim"])
def test_compressai_plots_our_files(results, metric) -> None:
    """With CompressAI's own program, in the environment of `benchmarks/compressai_env.py`."""
    plotter = next(COMPRESSAI.glob("lib/python*/site-packages/compressai/utils/plot/__main__.py"), None)
    if plotter is None:
        pytest.skip(f"no CompressAI in {COMPRESSAI}: python benchmarks/compressai_env.py")
    # By its file: its package would import torch and torchvision, which the plotter does not use.
    words = [plotter, "-f", "results/hyper.json", "results/jpeg.json", "-m", metric, "-o", "theirs.png"]
    done = subprocess.run([COMPRESSAI / "bin" / "python", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open("theirs.png") as image:
        assert np.asarray(image.convert("L")).std() > 1
