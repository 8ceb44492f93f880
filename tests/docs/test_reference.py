"""The reference pages leave nothing out, and what they point at exists."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from obverse.cli.app import app
from obverse.cli.exit import ExitCode
from obverse.config import KEYS
from obverse.training.config import DEFAULTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "plugins").rglob("*.md"),
    ]
)


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def sections(page: str, level: str = "## ") -> dict[str, str]:
    """Text below each heading of a level."""
    parts = re.split(rf"^{level}", text(page), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].strip(): part for part in parts}


def commands() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def long_options(command: object) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("-")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name, command in commands().commands.items() if not command.hidden])
def test_every_command_and_option_is_documented(name: str) -> None:
    section = sections("cli.md").get(f"obverse {name}")
    assert section, f"docs/cli.md has no section '## obverse {name}'"
    shared = sections("cli.md")["Options that several commands share"]
    for parameter in commands().commands[name].params:
        if parameter.param_type_name == "argument":
            continue
        longest = max(parameter.opts, key=len)
        names = [option for option in parameter.opts if option.startswith("--")]
        assert any(f"`{option}`" in section or f"`{option} " in section for option in names), (
            f"docs/cli.md, obverse {name}: {longest} is missing"
        )
        for option in parameter.opts:
            assert f"`{option}" in section + shared, f"docs/cli.md does not explain {option} of obverse {name}"


def test_options_of_the_program_are_documented() -> None:
    for option in long_options(commands()):
        assert f"`{option}`" in text("cli.md")


def test_aliases_are_documented() -> None:
    hidden = [name for name, command in commands().commands.items() if command.hidden]
    assert all(f"`obverse {name}` is the same" in text("cli.md") for name in hidden)


def test_every_documented_option_exists() -> None:
    known = {"--help", *long_options(commands())}
    for command in commands().commands.values():
        known |= set(long_options(command))
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", text("cli.md")))
    assert written <= known


def test_every_exit_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \|", sections("cli.md")["Exit codes"], flags=re.MULTILINE)
    assert [int(row) for row in rows] == [int(code) for code in ExitCode]


def defined_in(module: str) -> list[str]:
    """Public classes, functions and type aliases of a module."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return list(loaded.__all__)
    source = inspect.getsource(loaded)
    assigned = re.findall(r"^([A-Za-z]\w*)(?:: \w+)? = ", source, flags=re.MULTILINE)
    made = re.findall(r"^(?:class|def) ([A-Za-z]\w*)", source, flags=re.MULTILINE)
    return [*made, *assigned]


@pytest.mark.parametrize(
    "module", ["obverse", "obverse.interfaces", "obverse.errors", "obverse.testing", "obverse_registry"]
)
def test_every_public_name_is_documented(module: str) -> None:
    section = sections("api.md")[module]
    missing = [name for name in defined_in(module) if not re.search(rf"`{name}[`(]", section)]
    assert not missing, f"docs/api.md, {module}: {missing}"


@pytest.mark.parametrize("module", [title for title in sections("api.md") if title.startswith("obverse")])
def test_every_documented_name_exists(module: str) -> None:
    loaded = importlib.import_module(module)
    rows = re.findall(r"^\| (`[^|]+`) \|", sections("api.md")[module].partition("\nMethods")[0], flags=re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)", row)]
    assert names
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_every_method_of_a_codec_is_documented() -> None:
    from obverse import Codec

    section = sections("api.md")["obverse"].partition("\nMethods of")[2]
    public = [
        name
        for name, member in inspect.getmembers(Codec, inspect.isfunction)
        if not name.startswith("_") and name != "decode_stream"  # of a parsed stream, which is not public
    ]
    for name in public:
        row = re.search(rf"^\| `{name}\(([^)]*)\)`", section, flags=re.MULTILINE)
        assert row, f"docs/api.md: {name} is missing"
        given = [word for word in re.split(r", ", row[1]) if word != "*"]
        assert given == [p for p in inspect.signature(getattr(Codec, name)).parameters if p != "self"]


def test_every_key_of_a_configuration_is_documented() -> None:
    assert all(f"`{key}`" in text("config.md") for key in KEYS)
    training = sections("config.md")["Training"]
    keys = [
        f"{section}.{key}" if isinstance(DEFAULTS[section], dict) else section
        for section in DEFAULTS
        for key in (DEFAULTS[section] if isinstance(DEFAULTS[section], dict) else [section])
    ]
    assert [key for key in keys if f"`{key}`" not in training] == []


def test_the_configuration_shown_is_the_bundled_one() -> None:
    bundled = (ROOT / "plugins" / "obverse_pocket" / "configs" / "pocket-vq.yaml").read_text(encoding="utf-8")
    assert f"```yaml\n{bundled.strip()}\n```" in text("config.md")


def test_every_registered_kind_is_documented() -> None:
    from obverse_registry import KINDS

    assert all(f"`{kind}`" in sections("plugins.md")["Records"] for kind in KINDS)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    body = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", body):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


def test_the_table_of_contents_is_complete() -> None:
    assert all(f"({page.name})" in text("index.md") for page in DOCS.glob("*.md") if page.name != "index.md")


def test_changes_are_listed_newest_first() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (.+)$", changes, flags=re.MULTILINE)[1] == "Unreleased"  # type: ignore[index]


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(name for extra in project["project"]["optional-dependencies"].values() for name in extra),
    ]
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {re.split(r"[<>=~\[;]", name)[0] for name in needed} <= set(pinned)
