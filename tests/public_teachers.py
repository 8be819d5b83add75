"""Weights of public denoisers for tests: of packages, and of the folder beside the checkout or in KDSE_TEACHERS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdse.pretrained.teachers import FOLDER, located


def folder() -> Path:
    """Where the weights of public denoisers would lie: in KDSE_TEACHERS, or beside the corpus of the tests."""
    corpus = os.environ.get("KDSE_CORPUS") or Path(__file__).parents[2] / "shared" / "corpus"
    return Path(os.environ.get(FOLDER) or Path(corpus).parent / "teachers")


def weights(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of a known denoiser, which is then found by its name; skips with the reason where it is absent."""
    monkeypatch.setenv(FOLDER, str(folder()))
    found = located(name)
    if found is None:
        pytest.skip(f"the weights of {name} are neither in {FOLDER} nor in an installed package")
    return [str(file) for file in found[1]]
