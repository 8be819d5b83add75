"""The run that others are disturbed copies of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.runs import fit, make_config


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    return make_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def undisturbed(config, tmp_path_factory) -> Path:
    """Its run folder at the end."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = fit(config, folder)
    assert done.returncode == 0, done.stderr
    return folder
