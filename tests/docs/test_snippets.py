"""Every snippet in the README and the docs runs, or at least parses.

Python snippets of a page run in one namespace, in a folder with a small `photo.jpg` and a folder `photos`. So do the
`obverse` commands of its bash snippets, but for those that train, take long or need official
checkpoints, whose words are only checked. Snippets
that begin with a comment `# NAME` are files.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image

from obverse.cli import main
from obverse.cli.app import app
from obverse_registry import registry

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "plugins").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
# Their own tests run them: the README's blocks in a fresh environment, the tutorial and the example as plugins.
ELSEWHERE = ("README.md", "docs/plugins.md", "examples/third_party_plugin/README.md")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def files(page: Path) -> dict[str, str]:
    """Snippets that are files, by name."""
    found = {}
    for language in ("python", "toml", "yaml"):
        for snippet in snippets(page, language):
            if match := re.match(r"# (\S+\.(?:py|toml|yaml))\n", snippet):
                found[match[1]] = snippet
    return found


def commands(page: Path) -> list[list[str]]:
    """Words after `obverse` in the bash snippets, line by line."""
    lines = [line for snippet in snippets(page, "bash") for line in snippet.splitlines()]
    return [
        shlex.split(line.partition("-m obverse" if "-m obverse" in line else "obverse")[2], comments=True)
        for line in lines
        if re.match(r"(accelerate launch -m )?obverse ", line)
    ]


def cheap(words: list[str]) -> bool:
    paths = [word for word in words if "runs/" in word or "checkpoints/" in word]
    return words[0] not in ("train", "selftest") and not paths


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures."""
    with Image.open(ROOT / "examples" / "images" / "brushes.jpg") as image:
        image.crop((300, 200, 348, 232)).save(tmp_path / "photo.jpg", quality=95)
        (tmp_path / "photos" / "more").mkdir(parents=True)
        for name, left in {"a.png": 100, "more/b.png": 400}.items():
            image.crop((left, 300, left + 32, 332)).save(tmp_path / "photos" / name)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    bundled = (ROOT / "plugins" / "obverse_pocket" / "configs" / "pocket-vq.yaml").read_text(encoding="utf-8")
    mine = bundled.replace("../weights", "package://obverse_pocket/weights")
    (tmp_path / "mine.yaml").write_text(mine, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str]) -> None:
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        # Of an option given twice the last counts: small pictures, and no processes that load torch again.
        size = [] if "--from" in words else ["--size", "32x32"]
        quick = {"generate": size, "compress": ["-j", "1"], "decompress": ["-j", "1"]}
        code = main([*words, *quick.get(words[0], [])])
    assert code == 0, f"obverse {shlex.join(words)}: exit code {code}\n{output.getvalue()}"


@pytest.mark.parametrize("page", PAGES, ids=named)
@pytest.mark.usefixtures("folder")
def test_python(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "snippet"}
    before = {plugin.name for plugin in registry().plugins()}
    for snippet in snippets(page, "python"):
        code = compile(snippet, named(page), "exec")
        if not re.match(r"# \S+\.py\n", snippet):
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, namespace)
    for name in {plugin.name for plugin in registry().plugins()} - before:
        registry().remove(name)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_words_of_commands(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in commands(page):
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize("page", [page for page in PAGES if named(page) not in ELSEWHERE], ids=named)
@pytest.mark.usefixtures("folder")
def test_commands(page: Path) -> None:
    for words in commands(page):
        if "--print-config" in words or cheap(words):
            run(words)


@pytest.fixture
def tutorial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The files of the tutorial, written and registered as its entry point says."""
    written = files(ROOT / "docs" / "plugins.md")
    for name, content in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    registry().add(importlib.import_module("obverse_counting.plugin"), "counting")
    yield written
    registry().remove("counting")
    for name in [name for name in sys.modules if name.startswith("obverse_counting")]:
        del sys.modules[name]


def test_the_tutorial(tutorial: dict[str, str], folder: Path) -> None:
    project = tomllib.loads(tutorial["pyproject.toml"])["project"]
    assert project["entry-points"]["obverse"] == {"counting": "obverse_counting.plugin"}
    for words in commands(ROOT / "docs" / "plugins.md"):
        run(words)
    assert (folder / "decoded.png").exists()


def test_the_tutorial_passes_the_contract(tutorial: dict[str, str], folder: Path) -> None:
    suite = runpy.run_path(str(folder / "tests" / "test_prior.py"))["TestCountingPrior"]
    tests = [name for name in dir(suite) if name.startswith("test_")]
    assert tests
    for name in tests:
        with contextlib.suppress(pytest.skip.Exception):
            getattr(suite(), name)()
