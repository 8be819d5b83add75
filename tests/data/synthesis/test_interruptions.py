"""However a build ends, the next one finishes it, and what somebody else put on the disk stays as it was."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdse.data.synthesis import build as building
from kdse.data.synthesis.build import build, cache_folder
from kdse.data.synthesis.plan import Settings
from kdse.machine.progress import counting
from tests.data.synthesis.conftest import SETTINGS, audio_bytes

pytestmark = pytest.mark.integration

TINY = Settings(minutes=0.05)


def command(folder: Path, settings: Settings, *flags: str) -> list[str]:
    sizes = ["--minutes", str(settings.minutes), "--seed", str(settings.seed)]
    return [sys.executable, "-m", "kdse.cli", "corpus", "build", "--out", str(folder), *sizes, *flags]


def test_a_killed_build_leaves_no_corpus_and_the_next_one_goes_on_to_the_same_bytes(corpus, tmp_path):
    folder, partial = tmp_path / "corpus", tmp_path / "corpus.partial"
    process = subprocess.Popen(command(folder, SETTINGS, "--workers", "1"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(list(partial.rglob("*.flac"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    kept = {path: path.stat().st_mtime_ns for path in partial.rglob("*.flac")}
    assert len(kept) >= 3
    assert build(SETTINGS, folder, workers=0, progress=False)
    assert audio_bytes(folder) == audio_bytes(corpus) and not partial.exists()
    assert all((folder / path.relative_to(partial)).stat().st_mtime_ns == when for path, when in kept.items())


def test_a_worker_ends_with_its_input_so_a_killed_build_leaves_no_processes(tmp_path):
    order = json.dumps({"minutes": 0.05, "seed": 0, "folder": str(tmp_path)})
    worker = [sys.executable, "-m", "kdse.data.synthesis.worker"]
    done = subprocess.run(worker, input=f"{order}\n0\n", capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout == "null\n" and len(list(tmp_path.rglob("*.flac"))) == 1


def test_ctrl_c_stops_cleanly_and_the_next_run_finishes(tmp_path, monkeypatch):
    rendered: list[str] = []
    real = building.render

    def interrupted(clip, where):
        if len(rendered) == 3:
            raise KeyboardInterrupt
        real(clip, where)
        rendered.append(clip.path)

    monkeypatch.setattr(building, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(TINY, tmp_path / "corpus", workers=0, progress=False)
    assert not (tmp_path / "corpus").exists()
    monkeypatch.setattr(building, "render", real)
    assert build(TINY, tmp_path / "corpus", workers=0, progress=False)
    assert not build(TINY, tmp_path / "corpus", workers=0, progress=False)


def test_of_two_builders_at_once_one_builds_and_the_other_waits_for_it(tmp_path):
    flags = command(tmp_path / "corpus", TINY, "--workers", "1", "--json")
    both = [subprocess.Popen(flags, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate(timeout=200)[0]) for process in both]
    assert sorted(report["generated"] for report in reports) == [False, True]
    assert reports[0]["parts"] == reports[1]["parts"]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_disk_that_takes_no_more_is_one_line_with_the_systems_reason(workers, tmp_path):
    """The limit on file sizes stands in for a full disk: the same error path, from the real system call."""
    folder = tmp_path / "corpus"
    done = subprocess.run(
        command(folder, TINY, "--workers", workers),
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert str(folder) in last and "File too large" in last and "KDSE_CACHE" in last
    assert not folder.exists()
    assert build(TINY, folder, workers=0, progress=False)


def test_a_cache_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot write .*cache.*KDSE_CACHE"):
        build(TINY, cache_folder(TINY, tmp_path / "cache"), workers=0, progress=False)
    assert (tmp_path / "cache").read_text() == "mine"


def test_a_finished_corpus_is_used_where_nothing_can_be_written(corpus, monkeypatch):
    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(building, "alone", read_only)
    assert not build(SETTINGS, corpus, workers=0, progress=False)


@pytest.mark.parametrize("name", ["corpus", "corpus.partial"])
def test_what_somebody_else_put_there_is_never_overwritten(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=name):
        build(TINY, tmp_path / "corpus", workers=0, progress=False)
    assert [p.name for p in (tmp_path / name).iterdir()] == ["thesis.txt"]


def test_recordings_with_a_manifest_are_left_alone_without_advice_to_remove_them(tmp_path):
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "manifest.csv").write_text("path\n")
    with pytest.raises(ValueError, match="did not generate") as mistake:
        build(TINY, tmp_path / "recordings", workers=0, progress=False)
    assert "remove" not in str(mistake.value)
    assert [p.name for p in tmp_path.iterdir()] == ["recordings"]  # not even a lock beside them


def test_a_corpus_of_other_settings_is_kept(corpus):
    before = audio_bytes(corpus)
    with pytest.raises(ValueError, match="other settings"):
        build(Settings(minutes=0.7), corpus, workers=0, progress=False)
    assert audio_bytes(corpus) == before


def test_an_unfinished_corpus_of_other_settings_gives_way(tmp_path):
    folder, partial = tmp_path / "corpus", tmp_path / "corpus.partial"
    building._open_partial(SETTINGS, folder)
    (partial / "speech").mkdir()
    (partial / "speech" / "old.flac").write_bytes(b"x")
    assert build(TINY, folder, workers=0, progress=False)
    assert not (folder / "speech" / "old.flac").exists()


def test_a_corpus_that_lost_files_is_reported_not_used(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    next((tmp_path / "corpus" / "noise" / "test").iterdir()).unlink()
    with pytest.raises(ValueError, match="1 files are gone, noise/test"):
        build(SETTINGS, tmp_path / "corpus", workers=0, progress=False)


def test_progress_into_a_log_file_is_a_few_lines(capsys):
    with counting() as counts:
        advance = counts.add("embedded corpus", "clips", 100, 20)
        for _ in range(80):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "20/100" in lines[0] and "100/100" in lines[1]
    with counting(show=False) as counts:
        counts.add("embedded corpus", "clips", 100)()
    assert capsys.readouterr().err == ""
