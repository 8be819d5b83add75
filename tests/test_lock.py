"""`constraints.txt` locks one allowed version of every package, for every Python that pyproject.toml names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from kdse.internals.lightning import LIGHTNING
from kdse.internals.litdata import LITDATA
from kdse.internals.onnxscript import ONNXSCRIPT
from kdse.internals.optuna import OPTUNA
from kdse.internals.submitit import SUBMITIT
from kdse.internals.torch import TORCH
from kdse.internals.wandb import WANDB
from kdse.machine.packages import TORCH_PAIRS

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PYTHONS = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
#: What builds a package that comes as source; `make env` constrains it too.
BUILD = ["cython", "pip", "setuptools", "wheel"]


def requirements() -> Iterator[Requirement]:
    """Every dependency, of the extras too."""
    for text in [*PROJECT["dependencies"], *(t for extra in PROJECT["optional-dependencies"].values() for t in extra)]:
        yield Requirement(text)


def locked(python: str) -> dict[str, str]:
    """Version by package on 64-bit Linux with this Python."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
    found: dict[str, str] = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        pin = Requirement(line)
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{line}: no exact version"
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"{pin.name}: two versions for Python {python}"
            found[pin.name] = specifier.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_to_a_version_that_its_range_allows(python):
    lock = locked(python)
    for requirement in requirements():
        assert requirement.specifier.contains(lock[requirement.name.lower()]), requirement
    assert lock.keys() >= set(BUILD)


def test_the_lock_holds_a_pair_of_torch_and_torchaudio_that_works():
    lock = locked(PYTHONS[0])
    assert (lock["torch"], lock["torchaudio"]) in TORCH_PAIRS


@pytest.mark.parametrize(
    "library", [LIGHTNING, LITDATA, ONNXSCRIPT, OPTUNA, SUBMITIT, TORCH, WANDB], ids=lambda library: library.package
)
def test_what_an_error_about_an_internal_asks_for_holds_the_lock_and_begins_where_the_range_does(library):
    asked = Requirement(library.requirement)
    assert asked.name == library.package and asked.specifier.contains(locked(PYTHONS[0])[library.package])
    (lowest,) = {str(s) for r in requirements() if r.name == library.package for s in r.specifier if s.operator == ">="}
    assert lowest in {str(s) for s in asked.specifier}


def test_the_lock_names_no_address():
    assert not re.search(r"://|^-|@", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
