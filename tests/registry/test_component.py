from __future__ import annotations

import sys
import zipfile
from dataclasses import asdict, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from obverse_registry import KINDS, Component, RegistryError

if TYPE_CHECKING:
    from conftest import Site


def test_kinds_are_the_documented_ones() -> None:
    assert KINDS == (
        "encoder",
        "quantizer",
        "prior",
        "coder",
        "codec",
        "task",
        "metric",
        "anchor",
        "dataset",
        "checkpoint",
        "command",
    )


@pytest.mark.parametrize("name", ["a", "vqgan", "vqgan.f16-1024", "mean-scale", "2d", "sd.1"])
def test_valid_names(name: str) -> None:
    assert Component("prior", name, "a.b:C").name == name


@pytest.mark.parametrize(
    "name", ["", "VQGAN", "a_b", "-a", "a-", "a--b", "a.", ".a", "a.b.c", "a b", "é", "a\n", "a/b"]
)
def test_invalid_names(name: str) -> None:
    with pytest.raises(RegistryError, match=r"invalid prior name .*lower-case.*'vqgan\.f16-1024'"):
        Component("prior", name, "a.b:C")


def test_invalid_name_is_quoted() -> None:
    with pytest.raises(RegistryError, match="'VQGAN'"):
        Component("prior", "VQGAN", "a.b:C")


def test_unknown_kind_names_the_nearest_and_all() -> None:
    with pytest.raises(
        RegistryError,
        match=r"no component kind 'priors'; did you mean 'prior'\? \(kinds: encoder, .*, command\)",
    ):
        Component("priors", "a", "a.b:C")


@pytest.mark.parametrize("target", ["", "a.b", "a.b:", ":C", "a..b:C", "a.b:C.", "a b:C", "1a:C", "a:b/c.yaml"])
def test_invalid_object_targets(target: str) -> None:
    with pytest.raises(RegistryError, match=r"prior 'a': invalid target .*'package\.module:Attribute'"):
        Component("prior", "a", target)


@pytest.mark.parametrize(
    "target",
    [
        "a:C",
        "a",
        "a:c.json",
        "a:/c.yaml",
        "a:../c.yaml",
        "a:b/../c.yaml",
        "a:b//c.yaml",
        "a:b\\c.yaml",
        "a:.yaml",
        "a/b:c.yaml",
    ],
)
def test_invalid_file_targets(target: str) -> None:
    with pytest.raises(RegistryError, match=r"codec 'a': invalid target .*'package:relative/path\.yaml'"):
        Component("codec", "a", target)


@pytest.mark.parametrize("target", ["a:c.yaml", "a.b:c.yaml", "a_b:c/d-e/f.1.yaml"])
def test_valid_file_targets(target: str) -> None:
    assert Component("codec", "a", target).target == target


def test_records_compare_hash_and_convert() -> None:
    one = Component("prior", "a", "a.b:C", details={"source": "x"})
    assert one == replace(one, plugin="someone")
    assert hash(one) == hash(replace(one, plugin="someone"))
    assert one != replace(one, details={})
    assert asdict(one)["details"] == {"source": "x"}


def test_load_returns_the_attribute() -> None:
    assert Component("metric", "a", "fractions:Fraction").load() is Fraction
    assert Component("metric", "a", "fractions:Fraction.limit_denominator").load() is Fraction.limit_denominator


def test_load_names_component_plugin_and_cause(site: Site) -> None:
    site.write("needs_more.py", "import surely_absent\n")
    component = Component("prior", "a.b", "needs_more:C", plugin="mine")
    with pytest.raises(
        RegistryError,
        match=r"prior 'a\.b' of plugin 'mine': cannot load 'needs_more:C': "
        r"ModuleNotFoundError: No module named 'surely_absent'",
    ) as caught:
        component.load()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_load_of_a_missing_attribute() -> None:
    with pytest.raises(RegistryError, match=r"'fractions:Nothing': AttributeError: .*'Nothing'") as caught:
        Component("metric", "a", "fractions:Nothing").load()
    assert isinstance(caught.value.__cause__, AttributeError)


def test_load_survives_an_exit_on_import(site: Site) -> None:
    site.write("leaves.py", "raise SystemExit(3)\n")
    with pytest.raises(RegistryError, match="cannot load 'leaves:C': SystemExit: 3"):
        Component("metric", "a", "leaves:C").load()


def test_load_and_resource_send_to_each_other() -> None:
    with pytest.raises(RegistryError, match=r"codec 'a' is a file, not an object; use resource\(\)"):
        Component("codec", "a", "a:c.yaml").load()
    with pytest.raises(RegistryError, match=r"prior 'a' is an object, not a file; use load\(\)"):
        Component("prior", "a", "a:C").resource()


def test_resource_executes_nothing(site: Site) -> None:
    site.write("explosive/__init__.py", "raise RuntimeError\n")
    site.write("explosive/inner/__init__.py", "raise RuntimeError\n")
    outer = site.write("explosive/codecs/one.yaml")
    inner = site.write("explosive/inner/two.yaml")
    assert Component("codec", "one", "explosive:codecs/one.yaml").resource() == outer
    assert Component("codec", "two", "explosive.inner:two.yaml").resource() == inner
    assert "explosive" not in sys.modules


def test_resource_of_an_imported_package(site: Site) -> None:
    site.write("calm/__init__.py")
    file = site.write("calm/one.yaml")
    __import__("calm")
    assert Component("codec", "one", "calm:one.yaml").resource() == file


def test_resource_of_a_package_without_init(site: Site) -> None:
    file = site.write("bare/one.yaml")
    assert Component("codec", "one", "bare:one.yaml").resource() == file


def test_resource_missing_file(site: Site) -> None:
    site.write("calm/__init__.py")
    with pytest.raises(
        RegistryError,
        match=r"codec 'one' of plugin 'p': the package 'calm' has no file 'one\.yaml' \(looked in ",
    ):
        Component("codec", "one", "calm:one.yaml", plugin="p").resource()


@pytest.mark.parametrize("package", ["surely_absent", "lonely", "__main__"])
def test_resource_missing_package(site: Site, package: str) -> None:
    site.write("lonely.py")
    with pytest.raises(RegistryError, match=f"no installed package '{package}' to hold '{package}:one.yaml'"):
        Component("codec", "one", f"{package}:one.yaml").resource()


def test_resource_in_a_zipped_package(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = site.folder / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("zipped/__init__.py", "")
        bundle.writestr("zipped/one.yaml", "")
    monkeypatch.syspath_prepend(archive)
    with pytest.raises(RegistryError, match=r"'zipped' is not a folder on disk .*cannot be read from a zipped package"):
        Component("codec", "one", "zipped:one.yaml").resource()
