"""Indexing measures every file once, whatever happens, and names what is bad."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

import kdse.data.corpus.indexing as indexing
from kdse.data.corpus.indexing import BATCH, build
from kdse.data.corpus.manifest import NAME, load
from tests.data.small_corpus import hiss, put, tone_and_pauses


def corpus(root: Path, files: int = 5) -> Path:
    for i in range(files):
        put(root / f"{i % 3}" / f"{i:04d}.wav", hiss(0.01 + 0.001 * i, 8000 * (1 + i % 2)), 8000 * (1 + i % 2))
    return root


@pytest.fixture
def measured(monkeypatch):
    """Names of the files that were measured (in this process)."""
    names = []
    original = indexing.measure
    monkeypatch.setattr(
        indexing, "measure", lambda root, path, check: names.append(path) or original(root, path, check)
    )
    return names


@pytest.mark.parametrize("workers", [0, 2])
def test_every_file_is_listed_as_an_independent_look_at_it_says(tmp_path, workers):
    root = corpus(tmp_path / "c", 2 * BATCH + 7)
    put(root / "stereo.flac", np.zeros((50, 2)), 44100)
    done = build(root, workers=workers)
    rows = list(load(root / NAME).rows())
    files = sorted(p for p in root.rglob("*") if p.suffix in (".wav", ".flac"))
    assert (done.files, done.measured, done.kept, done.left_out, done.gone) == (len(files), len(files), 0, 0, 0)
    for row, file in zip(rows, files, strict=True):
        about, status = soundfile.info(str(file)), file.stat()
        assert row == (
            file.relative_to(root).as_posix(), about.frames, about.samplerate, about.channels, status.st_size,
            status.st_mtime_ns, "",
        )  # fmt: skip
    assert {p.name for p in root.iterdir() if p.is_file()} == {NAME, "stereo.flac"}  # nothing else is left behind


def test_what_was_measured_before_a_kill_is_not_measured_again(tmp_path, measured, monkeypatch):
    root = corpus(tmp_path / "c", 3 * BATCH)
    whole = build(corpus(tmp_path / "other", 3 * BATCH)).manifest
    measured.clear()
    journal = root / f".{NAME}.journal"
    note = indexing.Journal.note

    def dies(self, rows):
        if len(measured) > BATCH:
            raise KeyboardInterrupt
        note(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(indexing.Journal, "note", dies)
        with pytest.raises(KeyboardInterrupt):
            build(root)
    assert journal.exists() and not (root / NAME).exists() and len(measured) == 2 * BATCH
    with open(journal, "ab") as file:
        file.write(b'["header", "0/00')  # a line that the kill cut off
    measured.clear()
    done = build(root)
    assert (len(measured), done.measured, done.kept) == (2 * BATCH, 2 * BATCH, BATCH)
    assert list(load(root / NAME).paths) == list(load(whole).paths)
    assert load(root / NAME).frames.tolist() == load(whole).frames.tolist()
    assert not journal.exists()


@pytest.mark.integration
def test_an_index_killed_with_all_its_processes_goes_on_and_leaves_none_running(tmp_path, measured):
    root, total = tmp_path / "c", 20 * BATCH
    put(root / "0.flac", tone_and_pauses(60) + hiss(60) / 5)
    for i in range(1, total):
        os.link(root / "0.flac", root / f"{i}.flac")
    command = [sys.executable, "-m", "kdse.cli", "corpus", "index", str(root), "--workers", "2", "--check", "decode"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    journal, deadline = root / f".{NAME}.journal", time.monotonic() + 200
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    noted = len(indexing.Journal(journal, "decode").read())
    assert 0 < noted < total and not (root / NAME).exists()
    while processes_in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_in_session(process.pid)
    done = build(root, check="decode")
    assert (done.files, done.kept, done.measured) == (total, noted, total - noted) and len(measured) == total - noted


def processes_in_session(session: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_an_update_measures_what_is_new_or_changed_and_forgets_what_is_gone(tmp_path, measured):
    root = corpus(tmp_path / "c", 9)
    build(root)
    measured.clear()
    (root / "0" / "0003.wav").unlink()
    put(root / "1" / "0001.wav", hiss(0.5))
    put(root / "9" / "new.wav", hiss(0.2))
    os.utime(root / "2" / "0005.wav", ns=(1, 1))
    done = build(root, update=True)
    assert sorted(measured) == ["1/0001.wav", "2/0005.wav", "9/new.wav"]
    assert (done.files, done.kept, done.measured, done.gone) == (9, 6, 3, 1)
    listed = load(root / NAME)
    assert dict(zip(listed.paths, listed.frames.tolist(), strict=True))["1/0001.wav"] == 8000
    assert "0/0003.wav" not in listed.paths
    with pytest.raises(ValueError, match="is there already; --update"):
        build(root)


def test_a_closer_look_is_taken_at_all_files_and_kept_by_later_updates(tmp_path, measured):
    root = corpus(tmp_path / "c", 4)
    build(root)
    measured.clear()
    assert build(root, update=True, check="decode").measured == 4
    assert build(root, update=True, check="header").measured == 0
    assert load(root / NAME).check == "decode"


def bad_corpus(root: Path) -> Path:
    corpus(root, 4)
    (root / "text.wav").write_text("no audio")
    put(root / "empty.flac", np.zeros(0))
    nan = hiss(0.1)
    nan[700] = np.nan
    put(root / "nan.wav", nan, subtype="FLOAT")
    whole = put(root / "cut.flac", hiss(4.0)).read_bytes()
    (root / "cut.flac").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.mark.parametrize(
    ("check", "bad"),
    [("header", ["empty.flac", "text.wav"]), ("decode", ["cut.flac", "empty.flac", "nan.wav", "text.wav"])],
)
def test_bad_files_are_an_error_that_names_their_list_and_left_out_only_on_request(tmp_path, measured, check, bad):
    root = bad_corpus(tmp_path / "c")
    with pytest.raises(
        ValueError, match=rf"{len(bad)} of 8 files cannot be used; .*manifest\.bad\.txt.*--leave-out-bad"
    ):
        build(root, check=check)
    assert not (root / NAME).exists()
    report = (root / "manifest.bad.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in report] == bad
    assert all(line.split("\t")[1] for line in report)
    measured.clear()
    done = build(root, check=check, leave_out_bad=True)
    assert measured == [] and (done.files, done.left_out) == (8 - len(bad), len(bad))
    assert not set(bad) & set(load(root / NAME).paths)


def test_a_mended_file_is_measured_again_and_the_report_goes(tmp_path, measured):
    root = corpus(tmp_path / "c", 3)
    (root / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match="1 of 4 files"):
        build(root)
    put(root / "text.wav", hiss(0.1))
    measured.clear()
    assert build(root).files == 4 and measured == ["text.wav"]
    assert not (root / "manifest.bad.txt").exists()


def test_a_folder_with_nothing_good_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        build(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no audio"):
        build(tmp_path)
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(ValueError, match="none of its 1 audio files can be used"):
        build(tmp_path, leave_out_bad=True)


def test_a_list_of_another_folder_cannot_lie_where_it_would_be_found(tmp_path):
    a = corpus(tmp_path / "a")
    for place in (tmp_path / "w", tmp_path, a / "0"):
        with pytest.raises(ValueError, match=r"--out .*manifest\.kdse: .*choose another name.*--data\.manifest"):
            build(a, place / NAME)
        assert not (place / NAME).exists()
    os.symlink(a, tmp_path / "link")
    assert build(a, tmp_path / "link" / NAME).files == 5 and (a / NAME).exists()
    assert build(a, tmp_path / "w" / "a.kdse").files == 5


def test_of_two_lists_one_above_the_other_the_second_is_refused(tmp_path):
    root = corpus(tmp_path / "c")
    build(root / "0")
    for update in (False, True):
        with pytest.raises(ValueError, match=rf"{root}/0/{NAME}: would be used instead of {root}/{NAME}.*remove it"):
            build(root, update=update)
    assert build(root, tmp_path / "named.kdse").files == 5  # found by its flag: it hides nothing
    (root / "0" / NAME).unlink()
    build(root)
    for update in (False, True):
        with pytest.raises(ValueError, match=rf"{root}/0: is part of {root}, .*`kdse corpus index {root} --update`"):
            build(root / "0", update=update)
    (root / "0" / "index.json").write_text('{"chunks": [], "config": {}}')
    (root / "0" / NAME).write_text("the list of shards")
    assert build(root, update=True).files == 5


@pytest.mark.parametrize("check", ["header", "decode"])
def test_a_name_that_is_not_utf8_is_listed_and_shown_as_text_if_its_file_is_bad(tmp_path, check):
    root = corpus(tmp_path / "c", 3)
    odd = os.fsdecode(os.fsencode(root / "0") + b"/caf\xe9.wav")
    os.replace(root / "0" / "0000.wav", odd)
    assert build(root, check=check).files == 3 and "0/caf\udce9.wav" in list(load(root / NAME).paths)
    (root / NAME).unlink()
    with open(odd, "wb") as file:
        file.write(b"no audio")
    with pytest.raises(ValueError, match="1 of 3 files cannot be used"):
        build(root, check=check)
    assert (
        root / "manifest.bad.txt"
    ).read_text() == "0/caf\\udce9.wav\tnot readable as audio (Format not recognised)\n"
    assert build(root, check=check, leave_out_bad=True).files == 2
    assert load(root / NAME).left_out == [os.fsdecode(b"0/caf\xe9.wav")]
    assert load(root / NAME).below("0").left_out == [os.fsdecode(b"caf\xe9.wav")]
    assert load(root / NAME).below("1").left_out == []


def test_two_at_once_and_a_folder_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    root = corpus(tmp_path / "c", 3)
    with FileLock(root / f".{NAME}.lock"), pytest.raises(ValueError, match="another process is making it"):
        build(root)
    with pytest.raises(ValueError, match=r"cannot be written here .*--out"):
        build(root, root / "0" / "0000.wav" / "m.kdse")
