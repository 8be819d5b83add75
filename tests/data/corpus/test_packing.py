"""A pack is of the files that are there, goes on after a kill, and appears when it is whole."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

import kdse.data.corpus.packing as packing
from kdse.data.corpus.corpora import scan
from kdse.data.corpus.indexing import build
from kdse.data.corpus.packing import pack, plan
from tests.data.corpus.test_indexing import processes_in_session
from tests.data.small_corpus import hiss, make_corpus, put
from tests.data.tricky import SMALL_MB

pytestmark = pytest.mark.integration


def test_a_pack_is_planned_in_order_without_gaps_and_within_its_size():
    sizes = [5, 3, 3, 20, 1, 1, 1, 9, 2]
    made = list(plan("x", sizes, 10))
    assert [(shard.first, shard.last) for shard in made] == [(0, 2), (2, 3), (3, 4), (4, 7), (7, 8), (8, 9)]
    assert [shard.number for shard in made] == list(range(6))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pack_that_was_killed_goes_on_and_ends_with_the_same_bytes(folder, shards, tmp_path, monkeypatch, workers):
    out = tmp_path / "p"
    written = []
    write = packing.write_shard

    def dies(shard, root, rows, into):
        if len(written) == 3:
            (into / ".9.123").mkdir()  # what a killed process leaves of the shard it was at
            raise KeyboardInterrupt
        written.append(shard)
        write(shard, root, rows, into)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", dies)
        with pytest.raises(KeyboardInterrupt):
            pack(folder, out, shard_mb=SMALL_MB)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"p\.partial: is the unfinished pack of another corpus.*--shard-mb"):
        pack(folder, out, shard_mb=1)
    done = pack(folder, out, shard_mb=SMALL_MB, workers=workers)
    assert done.kept == 3 and done.shards > 8
    assert contents(out) == contents(shards)
    assert not list(tmp_path.glob("p.partial*"))


def test_a_killed_pack_command_leaves_no_out_and_no_process(tmp_path):
    root = make_corpus(tmp_path / "c", files=40)
    command = [sys.executable, "-m", "kdse.cli", "corpus", "pack", str(root), str(tmp_path / "p"), "--shard-mb", "0.05"]
    process = subprocess.Popen([*command, "--workers", "1"], start_new_session=True, stderr=subprocess.DEVNULL)
    partial, deadline = tmp_path / "p.partial", time.monotonic() + 200
    while not list(partial.glob("*/*/.chunk-*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while processes_in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_in_session(process.pid)
    assert partial.exists() and not (tmp_path / "p").exists()
    done = pack(root, tmp_path / "p", shard_mb=0.05)
    assert 0 < done.kept < done.shards
    corpus = scan(tmp_path / "p" / "speech" / "train", "--x")
    assert len(corpus) == 40 and corpus.read(39, 16000).numel() == corpus.samples(39, 16000)


def test_where_to_pack_is_checked_before_anything_is_written(folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    (tmp_path / "free.partial").mkdir()
    (tmp_path / "free.partial" / "mine.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for source, out, settings, message in (
        (folder, tmp_path / "full", {}, "full: is not empty"),
        (folder, tmp_path / "free", {}, r"free\.partial: .*holds something else"),
        (folder, folder / "inside", {}, "lies inside"),
        (tmp_path / "none", tmp_path / "o", {}, "no such folder"),
        (tmp_path / "empty", tmp_path / "o", {}, "holds no audio"),
        (folder, tmp_path / "o", {"shard_mb": 0}, "--shard-mb 0"),
        (folder, tmp_path / "o", {"shard_mb": 5000}, "--shard-mb 5000"),
        (folder, tmp_path / "o", {"workers": -1}, "--workers -1"),
    ):
        with pytest.raises(ValueError, match=message):
            pack(source, out, **settings)
        assert not out.exists() or out.name == "full"
    (tmp_path / "new.partial").mkdir()
    with FileLock(tmp_path / "new.partial" / ".lock"), pytest.raises(ValueError, match="another process is packing"):
        pack(folder, tmp_path / "new")
    pack(folder / "rir" / "test", tmp_path / "empty")  # an empty folder will do
    assert (tmp_path / "empty" / "index.json").is_file()


def test_a_file_that_changed_since_the_index_is_not_packed(tmp_path):
    root = make_corpus(tmp_path / "c", files=1)
    build(root)
    put(root / "noise" / "valid" / "noise0.flac", hiss(0.2))
    with pytest.raises(ValueError, match=r"noise0\.flac: has .* bytes.*--update"):
        pack(root, tmp_path / "p")
    build(root, update=True)
    with pytest.raises(ValueError, match="unfinished pack of another corpus, other files.*remove it"):
        pack(root, tmp_path / "p")
    shutil.rmtree(tmp_path / "p.partial")
    pack(root, tmp_path / "p")
    assert scan(tmp_path / "p" / "noise" / "valid", "--x").frames.tolist() == [3200]


def test_a_list_that_is_not_of_the_files_that_are_there_is_not_packed(tmp_path):
    root = make_corpus(tmp_path / "c", files=2)
    (root / "noise" / "train" / "bad.wav").write_text("no audio")
    build(root, leave_out_bad=True)
    named = build(root, tmp_path / "m.kdse", leave_out_bad=True).manifest
    new, old = root / "speech" / "valid" / "new.wav", root / "noise" / "test" / "noise0.flac"
    put(new, hiss(0.2))
    for manifest, command in ((None, f"{root} --update"), (named, f"{root} --out {named} --update")):
        with pytest.raises(ValueError, match=rf"{new}: is not listed; .*`kdse corpus index {command}`"):
            pack(root, tmp_path / "p", manifest=manifest)
    new.unlink()
    content = old.read_bytes()
    old.unlink()
    with pytest.raises(ValueError, match=rf"{old}: is gone; .*`kdse corpus index {root} --update`"):
        pack(root, tmp_path / "p")
    old.write_bytes(content)
    assert pack(root, tmp_path / "p").recordings == 15  # without the one that was left out on request
    with pytest.raises(ValueError, match="p/.*: shards are not read here"):
        pack(tmp_path / "p", tmp_path / "q")
