"""Names that are long, not UTF-8 or full of terminal escapes: every command works on the files and shows the names."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kdse.cli import main

pytestmark = pytest.mark.integration

NAMES = [
    b"\x1b]0;gone\x07\x1b[31mred.wav",
    b"two\nlines.wav",
    b"caf\xe9.wav",
    b"\xe2\x80\xaeback.wav",
    b"x" * 236 + b".wav",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("odd")
    clean = 0.1 * rng.standard_normal(8000) * np.abs(np.sin(np.arange(8000) / 900))
    for kind, wave in (("noisy", clean + 0.02 * rng.standard_normal(8000)), ("clean", clean)):
        (folder / kind).mkdir()
        for name in NAMES:
            soundfile.write(os.fsencode(folder / kind) + b"/" + name, wave, 16000, format="WAV")
    return folder / "noisy", folder / "clean"


def check_said(capsys) -> str:
    """What was said, in which nothing acts on a terminal."""
    said = "".join(capsys.readouterr())
    assert said.encode() and not set(said) & {"\x1b", "\x07", "\x9b", "\u202e"}
    return said


def test_enhance_writes_each_by_its_name_and_says_what_failed(folders, tmp_path, capsys):
    broken = os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[31m\ncaf\xe9.wav")
    Path(broken).write_bytes(b"no audio")
    assert main(["enhance", str(folders[0]), broken, "--out", str(tmp_path / "out")]) == 1
    said = check_said(capsys)
    assert r"/\x1b[31m\ncaf\udce9.wav: not readable" in said and "5 of 6 files enhanced" in said
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(NAMES)
    assert main(["enhance", str(folders[0]), "--out", str(tmp_path / "out"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    assert sorted(os.fsencode(Path(row["input"]).name) for row in rows) == sorted(NAMES)


def test_index_and_evaluate_list_and_score_all_of_them(folders, tmp_path, capsys):
    for folder in folders:
        assert main(["corpus", "index", str(folder), "--check", "decode", "--workers", "0"]) == 0
    flags = ["--metrics", "si_sdr", "--out", str(tmp_path / "out"), "--workers", "1", "--no-cost", "--save-audio", "5"]
    for _ in range(2):  # (the second takes what the first has noted)
        assert main(["evaluate", "s=cruse-30k", "--paired", *map(str, folders), *flags]) == 0
        check_said(capsys)
        rows = list(csv.DictReader((tmp_path / "out" / "per_file.csv").open(encoding="utf-8")))
        assert len(rows) == 2 * len(NAMES) and all(row["si_sdr"] for row in rows)
        json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
