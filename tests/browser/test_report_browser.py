"""The report in headless Chromium, at the widths of a desk and of a telephone.

    OBVERSE_SCREENSHOTS=FOLDER pytest tests/browser

keeps a picture of every page.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
import pytest
import results_folder
from PIL import Image

from obverse.evaluation.report import make_report

EXECUTABLE = chromium.find()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        EXECUTABLE is None, reason="no Chromium: apt-get install chromium, or name it in OBVERSE_CHROMIUM"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(make_report(results_folder.make(folder / "results")).html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Page]:
    assert EXECUTABLE is not None
    with chromium.page(EXECUTABLE) as page:
        yield page


@pytest.fixture
def page(browser: chromium.Page, report: Path) -> Iterator[chromium.Page]:
    """The report in a window of 1280x900, without anything clicked."""
    browser.problems.clear()
    browser.requests.clear()
    browser.open(report)
    yield browser
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def clip(page: chromium.Page, what: str = "img:nth-of-type(2)") -> float:
    """Percent of the first picture's right side that is cut off."""
    style = page.run(f"document.querySelector('.stage {what}').style.clipPath")
    return float(style.split()[-1].rstrip("%)"))


def column(page: chromium.Page, table: str, number: int) -> list[str]:
    rows = f"[...document.querySelectorAll('#{table} tbody tr')].filter(row => !row.hidden)"
    return page.run(f"{rows}.map(row => row.cells[{number}].textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(page: chromium.Page, report: Path, width: int, scheme: str) -> None:
    page.open(report, width=width, scheme=scheme)
    page.click("#difference")
    page.click(".card button")
    assert page.run("document.documentElement.scrollWidth") == width
    wide = page.run(
        "[...document.querySelectorAll('main *')].filter(node => !node.closest('.scroll table, pre, svg, caption')"
        " && node.getBoundingClientRect().right > innerWidth + 0.5).map(node => node.outerHTML.slice(0, 80))"
    )
    assert wide == []
    if kept := os.environ.get("OBVERSE_SCREENSHOTS"):
        page.run("scrollTo(0, 0)")
        page.screenshot(Path(kept, f"report-{width}-{scheme}.png"))


def test_the_colours_follow_the_system(page: chromium.Page, report: Path) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page.open(report, scheme=scheme)
        paper, ink = page.run("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        brightness = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (paper, ink)]
        assert (brightness[0] > brightness[1]) == (scheme == "light")
        colours.add(paper)
    assert len(colours) == 2


def test_the_slider_moves_by_mouse_and_by_key(page: chromium.Page) -> None:
    assert clip(page) == 50
    x, y = page.center(".stage input")
    page.mouse("mousePressed", x, y)
    page.mouse("mouseMoved", x + 120, y)
    page.mouse("mouseReleased", x + 120, y)
    moved = clip(page)
    assert 60 < moved < 90
    divider, stage = page.run(
        "['.divider', '.stage'].map(name => document.querySelector(name).getBoundingClientRect().x)"
    )
    assert abs(divider + 1 - (x + 120)) < 3, stage
    page.run("document.querySelector('.stage input').focus()")
    page.press("ArrowLeft", 37)
    assert clip(page) == moved - 0.5
    assert page.run("document.querySelector('.stage input').getAttribute('aria-valuetext')").endswith("percent left")


def test_sides_are_chosen_for_one_picture_and_for_all(page: chromium.Page) -> None:
    assert page.run("document.querySelectorAll('.card').length") == 3
    page.choose(".card [aria-label^='right']", '["webp","50"]')
    words = "[...document.querySelectorAll('.right-side')].map(node => node.textContent)"
    assert page.run(words) == ["webp, quality 50", "jpeg, quality 5", "jpeg, quality 5"]
    page.choose("#all-right", '["jpeg","60"]')
    page.choose("#all-left", '["webp","5"]')
    assert page.run(words) == ["jpeg, quality 60"] * 3
    told = page.run("[...document.querySelectorAll('.card:first-child .values')].map(node => node.textContent)")
    points = page.run("JSON.parse(document.getElementById('data').textContent).images[0].pictures")
    for side, codec, quality in zip(told, ("webp", "jpeg"), ("5", "60"), strict=True):
        (point,) = [point for point in points if (point["codec"], point["quality"]) == (codec, quality)]
        assert f"{point['bpp']:.4f} bpp" in side
        assert "psnr-rgb" in side
    sources = page.run("[...document.querySelectorAll('.card:first-child img')].map(node => node.src)")
    assert sources == [points[3]["data"], points[2]["data"]]


def difference_map(page: chromium.Page) -> np.ndarray:
    page.run("new Promise(done => setTimeout(done, 300))")
    return decode(page.run("document.querySelector('.stage canvas').toDataURL()"))


def test_difference_maps_are_differences(page: chromium.Page) -> None:
    assert page.run("document.querySelector('.stage canvas').hidden")
    page.click("#difference")
    page.choose("#gain", "1")
    image = page.run("JSON.parse(document.getElementById('data').textContent).images[0]")
    original, decoded = (decode(url) for url in (image["data"], image["pictures"][0]["data"]))
    assert (difference_map(page) == np.abs(original.astype(int) - decoded)).all()
    assert clip(page, "canvas") == 50
    page.click("#difference")
    assert page.run("document.querySelector('.stage canvas').hidden")


def decode(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.array(image.convert("RGB"))


def test_fast_changes_while_maps_are_drawn_leave_the_last_one(page: chromium.Page) -> None:
    page.click("#difference")
    for quality in ("5", "20", "60"):
        page.choose("#all-right", f'["jpeg","{quality}"]')
    page.choose("#all-right", "original")
    assert not difference_map(page).any()


def test_tables_sort_by_every_kind_of_column(page: chromium.Page) -> None:
    heading = "#averages thead th:nth-child({})"
    sort = "document.querySelector('#averages thead th:nth-child({})').getAttribute('aria-sort')"
    for number, kind in ((1, str), (2, int), (4, float)):
        assert page.run(sort.format(number)) == "none"
        page.click(f"{heading.format(number)} button")
        assert page.run(sort.format(number)) == "ascending"
        values = [kind(text) for text in column(page, "averages", number - 1)]
        assert values == sorted(values)
        page.run(f"document.querySelector('{heading.format(number)} button').focus()")
        page.press(" ", 32)
        assert page.run(sort.format(number)) == "descending"
        values = [kind(text) for text in column(page, "averages", number - 1)]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) > 1
        assert page.run("document.querySelectorAll('#averages [aria-sort]:not([aria-sort=none])').length") == 1


def test_the_table_of_images_shows_what_is_chosen(page: chromium.Page) -> None:
    assert set(column(page, "samples", 1)) == {"jpeg"}
    assert len(column(page, "samples", 0)) == 9
    page.choose("#samples-codec", "webp")
    page.choose("#samples-quality", "50")
    assert column(page, "samples", 0) == ["image1.png", "image2.png", "image3.png"]
    assert set(column(page, "samples", 2)) == {"50"}


def test_the_metric_changes_the_plot(page: chromium.Page) -> None:
    state = (
        "[document.querySelector('#plot .title').textContent, document.querySelector('#plot .curve').getAttribute('d')]"
    )
    before = page.run(state)
    assert before[0].startswith("PSNR (rgb) [dB]")
    assert before[0].endswith("higher is better")
    page.choose("#metric", "mae")
    after = page.run(state)
    assert after[0].startswith("mae")
    assert before[1] != after[1]
    page.click("#log-rate")
    assert page.run(state)[1] != after[1]


def test_curves_can_be_hidden(page: chromium.Page) -> None:
    assert page.run("document.querySelectorAll('#plot > svg .curve').length") == 2
    page.click(".legend button")
    assert page.run("document.querySelectorAll('#plot > svg .curve').length") == 1
    assert page.run("document.querySelector('.legend button').getAttribute('aria-pressed')") == "false"


def test_points_tell_their_values_to_the_mouse_and_to_keys(page: chromium.Page) -> None:
    tip = "(tip => tip.hidden ? null : tip.textContent)(document.querySelector('.tip'))"
    assert page.run(tip) is None
    x, y = page.center("#plot > svg .mark:nth-of-type(2)")
    page.move(x + 3, y - 3)
    point = page.run("JSON.parse(document.getElementById('data').textContent).curves['psnr-rgb'].curves[0].points[0]")
    name, rate, value = page.run(tip).splitlines()
    assert name == "jpeg, quality 5"
    assert float(rate.removesuffix(" bpp")) == pytest.approx(point["bpp"], rel=1e-3)
    assert float(value.removeprefix("PSNR (rgb) [dB]: ")) == pytest.approx(point["value"], rel=1e-3)
    page.move(2, 2)
    assert page.run(tip) is None
    page.run("document.querySelector('#plot > svg').focus()")
    told = []
    for key, code in (("ArrowRight", 39), ("ArrowRight", 39), ("ArrowDown", 40)):
        page.press(key, code)
        told.append(page.run(tip).partition("\n")[0])
    assert told == ["jpeg, quality 5", "jpeg, quality 20", "webp, quality 50"]
    page.press("Escape", 27)
    assert page.run(tip) is None


def test_every_control_has_a_name_and_can_be_reached_by_key(page: chromium.Page) -> None:
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "combobox", "checkbox", "link")
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len({node["role"]["value"] for node in controls}) == len(roles)
    assert [node for node in controls if not node["name"]["value"].strip()] == []
    unreachable = page.run(
        "[...document.querySelectorAll('button, input, select, a')].filter(n => n.tabIndex < 0).length"
    )
    assert unreachable == 0


def test_without_scripts_the_tables_are_there(page: chromium.Page, report: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.call("Page.navigate", url="about:blank")
        page.call("Page.navigate", url=report.resolve().as_uri())
        end = time.monotonic() + chromium.SECONDS
        text: set[str] = set()
        expected = {"image3.png", "psnr-rgb ↑", "source: paper", "lpips-alex"}
        while not expected <= text and time.monotonic() < end:
            found = page.call("DOMSnapshot.captureSnapshot", computedStyles=[])
            text = {string.strip() for string in found["strings"]}
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert expected <= text
    assert not any(string.startswith("jpeg, quality") for string in text), "scripts ran"


def test_a_run_in_which_nothing_was_coded(page: chromium.Page, tmp_path: Path) -> None:
    kept = results_folder.make(tmp_path / "results", codecs={})
    (kept / "samples.jsonl").write_text("")
    path = tmp_path / "empty.html"
    path.write_text(make_report(kept).html, encoding="utf-8")
    page.open(path, width=400)
    assert page.run("document.documentElement.scrollWidth") == 400
