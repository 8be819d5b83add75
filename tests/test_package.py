"""What an installed kdse says of itself to installers and type checkers."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import kdse
import kdse.data

ROOT = Path(__file__).parents[1]


def test_the_package_metadata_have_the_version_of_the_package():
    from setuptools.config.pyprojecttoml import read_configuration

    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert read_configuration(ROOT / "pyproject.toml")["project"]["version"] == kdse.__version__


def test_the_marker_of_typed_packages_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["kdse"]
    assert (ROOT / "kdse" / "py.typed").read_bytes() == b""


def test_type_checkers_see_every_name_that_is_loaded_when_first_used():
    for package in (kdse, kdse.data):
        tree = ast.parse(Path(str(package.__file__)).read_text())
        typed = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
        seen = {
            name.asname or name.name: f"{node.module}:{name.name}"
            for node in typed.body
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }
        loaded = {name: place if ":" in place else f"{place}:{name}" for name, place in package._LAZY.items()}
        assert seen == loaded, package.__name__
