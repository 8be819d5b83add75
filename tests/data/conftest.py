"""A corpus of awkward names and formats, as files and packed into shards; to be read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdse.data.corpus.packing import pack
from tests.data.tricky import SMALL_MB, make_tricky


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return make_tricky(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def shards(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "p"
    pack(folder, out, shard_mb=SMALL_MB)
    return out
