"""One small embedded corpus for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdse.data.synthesis.build import build
from kdse.data.synthesis.plan import Settings

SETTINGS = Settings(minutes=0.4, seed=3)


def audio_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.flac"))}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "corpus"
    assert build(SETTINGS, folder, workers=1, progress=False)
    return folder
