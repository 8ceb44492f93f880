"""The HTML report: one file that says what the results folder says. `tests/browser` runs its scripts."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import results_folder
from PIL import Image

from obverse.cli import main
from obverse.errors import UnsupportedInputError
from obverse.evaluation import analyses
from obverse.evaluation.report import make_report
from obverse.evaluation.report import rows as report_rows
from obverse.evaluation.report.pictures import FORMS
from obverse.evaluation.report.tables import Column, table

VOID = {"meta", "link", "input", "img", "br", "hr"}


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subjects = {"webp": {"parameters": 1_500_000, "licence": "CC-BY-NC-4.0"}, "jpeg": {"parameters": 7_000_000}}
    return results_folder.make(tmp_path_factory.mktemp("results") / "waves", subjects=subjects)


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return make_report(folder).html


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def decode(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.array(image.convert("RGB"))


def rows_of(html: str, name: str) -> list[list[str]]:
    """Texts of a table's cells, its heading first."""
    found = re.search(rf'<table id="{name}".*?</table>', html, re.DOTALL)
    assert found
    lines = re.findall(r"<tr.*?</tr>", found[0], re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line, re.DOTALL) for line in lines]
    return [[re.sub(r"<.*?>", "", cell) for cell in line] for line in cells]


def test_the_page_needs_nothing_else(html: str) -> None:
    addresses = set(re.findall(r"\b(?:https?|ftp|wss?|file):[^\s\"'<>)]*", re.sub(r"data:image[^\"]*", "", html)))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a namespace
    links = [
        value for _, attributes in Reader(html).elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert links
    assert all(link is not None and link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(", html)


def test_the_security_policy_allows_the_scripts_of_the_page_alone(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)
    assert policy
    assert "default-src 'none'" in policy[1]
    for element in ("style", 'script type="module"'):
        (text,) = re.findall(rf"<{element}>(.*?)</{element.partition(' ')[0]}>", html, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy[1]


def test_the_page_is_well_formed(html: str) -> None:
    read = Reader(html)
    names = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = [attributes["href"] for tag, attributes in read.elements if tag == "a"]
    assert targets
    assert {str(target)[1:] for target in targets} <= set(names)
    used = set(re.findall(r'byId\("([\w-]+)"\)', html))
    assert used <= set(names)
    assert ("html", {"lang": "en"}) in read.elements


def test_the_same_folder_gives_the_same_page(folder: Path, html: str) -> None:
    assert make_report(folder).html == html


def test_curves_are_those_of_the_analyses(folder: Path, html: str) -> None:
    curves = data_of(html)["curves"]
    assert list(curves) == ["psnr-rgb", "mae"]
    assert curves == json.loads(json.dumps(analyses.rd_curves(folder)))


def test_pictures_are_those_of_the_folder(folder: Path, html: str) -> None:
    images = data_of(html)["images"]
    assert [image["filename"] for image in images] == ["image1.png", "image2.png", "image3.png"]
    for number, image in enumerate(images, 1):
        assert (decode(image["data"]) == results_folder.picture(number)).all()
        assert len(image["pictures"]) == 5
        for picture in image["pictures"]:
            path = folder / "pictures" / picture["codec"] / picture["quality"] / image["filename"]
            with Image.open(path) as kept:
                assert (decode(picture["data"]) == np.array(kept)).all()
            assert picture["bpp"] > 0
            assert set(picture["metrics"]) == {"psnr-rgb", "mae"}
    assert "Embedded as PNG, without loss." in html


def test_averages_are_means_over_the_images(folder: Path, html: str) -> None:
    rows = rows_of(html, "averages")
    assert rows[0] == ["codec", "quality", "images", "bpp", "psnr-rgb ↑", "mae ↓"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    own = [sample for sample in samples if (sample["codec"], sample["quality"]) == ("webp", "50")]
    (row,) = [row for row in rows if row[:2] == ["webp", "50"]]
    assert row[2] == "3"
    assert float(row[3]) == pytest.approx(sum(sample["bpp"] for sample in own) / 3, abs=1e-4)
    assert float(row[4]) == pytest.approx(sum(sample["metrics"]["psnr-rgb"] for sample in own) / 3, abs=1e-2)
    assert len(rows_of(html, "samples")) == 1 + 3 * 5


def test_paper_values_are_marked(html: str) -> None:
    for name in ("times", "published", "ratios"):
        lines = [row[0] for row in rows_of(html, name)[1:]]
        assert [line for line in lines if "source: paper" in line]
    assert [row[0] for row in rows_of(html, "times") if "source" not in row[0]][1:] == ["jpeg"] * 3 + ["webp"] * 2
    assert all("source: paper" in row[0] for row in rows_of(html, "published")[1:])
    assert not [row for row in rows_of(html, "models") if "source: paper" in row[0]]
    assert all(curve["source"] == "measured" for told in data_of(html)["curves"].values() for curve in told["curves"])


def test_licences_fingerprints_environment_and_what_was_left_out(folder: Path, html: str) -> None:
    licences = {row[0]: row[-1] for row in rows_of(html, "models")}
    assert licences == {"codec": "licence", "jpeg": "unknown", "webp": "CC-BY-NC-4.0"}
    assert ["lpips-alex", "no weights; name them with OBVERSE_LPIPS"] in rows_of(html, "skipped")
    run = json.loads((folder / "run.json").read_text())
    for subject in run["subjects"].values():
        assert f"<code>{subject['fingerprint']}</code>" in html
    for key, value in run["environment"].items():
        assert f"<dt>{key}</dt><dd>{value}</dd>" in html
    assert "<dt>protocol.name</dt><dd>full</dd>" in html
    assert ["psnr-rgb", "higher", "0 to ∞", "RGB", "obverse"] in rows_of(html, "metrics")


def test_names_are_text_and_never_html(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>&\"'"
    kept = results_folder.make(
        tmp_path / "results", images={"a.png": results_folder.picture(1)}, subjects={"webp": {"licence": hostile}}
    )
    for name in ("run.json", "samples.jsonl"):
        text = (kept / name).read_text().replace('"jpeg"', json.dumps(hostile)).replace('"a.png"', json.dumps(hostile))
        (kept / name).write_text(text)
    html = make_report(kept).html
    Reader(html)
    assert "<img" not in html
    assert html.count("</script>") == 2
    assert data_of(html)["curves"]["mae"]["curves"][0]["codec"] == hostile
    assert data_of(html)["images"][0]["filename"] == hostile


def test_pictures_that_do_not_fit_are_named(folder: Path) -> None:
    bare = len(make_report(folder, max_images=0).html.encode())
    none = make_report(folder, max_mb=(bare + 100) / 10**6)
    assert (none.images, none.left_out) == (0, ["pictures of 3 of 3 images would make the page too large"])
    assert none.left_out[0] in none.html
    two = make_report(folder, max_images=2)
    assert (two.images, two.left_out) == (2, ["pictures of 1 of 3 images are more than were asked for"])
    whole = make_report(folder)
    assert (whole.images, whole.left_out) == (3, [])


def test_smaller_pages_have_lossy_pictures_and_say_so(folder: Path) -> None:
    bare = len(make_report(folder, max_images=0).html.encode())
    whole = len(make_report(folder).html.encode()) - bare
    caps = [int(bare + share * whole) for share in (1.1, 0.9, 0.5, 0.4, 0.3, 0.25)]
    reports = [make_report(folder, max_mb=cap / 10**6) for cap in caps]
    assert all(len(report.html.encode()) <= cap + 300 for report, cap in zip(reports, caps, strict=True))
    forms = list(FORMS)
    order = [min(forms.index(form) for form in forms if form in report.html) for report in reports]
    assert order == sorted(order)
    assert order[0] == 0
    assert order[-1] >= 2
    lossy = [report for report, form in zip(reports, order, strict=True) if form >= 2]
    assert all("what is shown differs slightly" in report.html for report in lossy)


def test_originals_that_are_missing_are_named(tmp_path: Path) -> None:
    kept = results_folder.make(tmp_path / "results")
    (kept / "pictures" / "reference" / "image2.png").unlink()
    report = make_report(kept)
    assert (report.images, report.left_out) == (2, ["pictures of 1 of 3 images have no original in the folder"])


def test_a_folder_without_pictures_or_values(tmp_path: Path) -> None:
    kept = results_folder.make(tmp_path / "results", codecs={"jpeg": (results_folder.pillow_coder("jpeg"), ["5"])})
    lines = [json.loads(line) for line in (kept / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line["picture"] = None
        line["metrics"] = {"psnr-rgb": None, "mae": line["metrics"]["mae"]}
        line["times"] = {}
    (kept / "samples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    report = make_report(kept)
    assert report.images == 0
    assert "No pictures were kept." in report.html
    assert list(data_of(report.html)["curves"]) == ["mae"]
    assert rows_of(report.html, "averages")[0] == ["codec", "quality", "images", "bpp", "mae ↓"]
    Reader(report.html)


def test_a_run_in_which_nothing_was_coded(tmp_path: Path) -> None:
    kept = results_folder.make(tmp_path / "results", codecs={})
    (kept / "samples.jsonl").write_text("")
    report = make_report(kept)
    Reader(report.html)
    assert "No metric has a value." in report.html
    assert "No pictures were kept." in report.html
    assert ["lpips-alex", "no weights; name them with OBVERSE_LPIPS"] in rows_of(report.html, "skipped")


def test_numbers_of_whole_sets(tmp_path: Path) -> None:
    kept = results_folder.make(tmp_path / "results")
    sets = {"jpeg": {"5": {"fid": 31.25}, "20": {"fid": 12.5}}, "webp": {"50": {"fid": None}}}
    (kept / "set_metrics.json").write_text(json.dumps(sets))
    html = make_report(kept).html
    rows = rows_of(html, "averages")
    assert [row[-1] for row in rows] == ["fid ↓", "31.25", "12.50", "—", "—", "—"]
    assert [len(curve["points"]) for curve in data_of(html)["curves"]["fid"]["curves"]] == [2]


def test_too_many_samples_are_left_to_their_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_rows, "MAX_SAMPLES", 4)
    html = make_report(folder, max_images=0).html
    assert len(rows_of(html, "samples")) == 1 + 4
    assert "11 of 15 rows are not in this page; samples.jsonl has them all." in html


def test_tables_write_numbers_for_people_and_for_sorting() -> None:
    rows = [{"name": "a", "n": 12345, "x": 0.123456789}, {"name": "b", "n": None, "x": 2.0, "source": "paper"}]
    html = table(
        "t", "Both", [Column("name", "name"), Column("n", "n"), Column("x", "x", decimals=3), Column("y", "y")], rows
    )
    assert '<td class="number" data-value="12345">12,345</td>' in html
    assert '<td class="number" data-value="0.123456789">0.123</td>' in html
    assert '<td class="number">—</td>' in html
    assert 'b <span class="badge">source: paper</span>' in html
    assert html.count('aria-sort="none"') == 3


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "page.html"
    assert main(["report", str(folder), "-o", str(output)]) == 0
    assert capsys.readouterr() == (f"{output}\n", "")
    assert output.read_text(encoding="utf-8") == make_report(folder).html
    assert main(["report", str(folder), "-o", str(output)]) == 1
    assert "exists; use --force" in capsys.readouterr().err
    assert main(["report", str(folder), "-o", str(output), "--force", "--max-images", "1", "--json"]) == 0
    told, error = capsys.readouterr()
    left_out = ["pictures of 2 of 3 images are more than were asked for"]
    assert json.loads(told) == {
        "output": str(output),
        "bytes": output.stat().st_size,
        "images": 1,
        "left_out": left_out,
    }
    assert error == f"obverse: {left_out[0]}\n"


def test_folders_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path / "missing", tmp_path):
        assert main(["report", str(place), "-o", str(tmp_path / "page.html")]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_damaged_pictures_are_an_error_of_one_line(tmp_path: Path) -> None:
    kept = results_folder.make(tmp_path / "results")
    (kept / "pictures" / "jpeg" / "5" / "image1.png").write_bytes(b"no picture")
    with pytest.raises(UnsupportedInputError, match=r"cannot read the picture .*image1\.png"):
        make_report(kept)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_stand_out_in_both_schemes(html: str) -> None:
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        for name, colour in scheme.items():
            for ground in ("paper", "panel"):
                light, dark = sorted((luminance(colour), luminance(scheme[ground])), reverse=True)
                contrast = (light + 0.05) / (dark + 0.05)
                if name in ("ink", "soft", "accent"):
                    assert contrast >= 4.5, (name, ground)
                elif name.startswith("s"):
                    assert contrast >= 3, (name, ground)
