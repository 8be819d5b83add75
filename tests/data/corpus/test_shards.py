"""Shards hold what the folder holds: the same mixtures, bit for bit, from a disk or from object storage."""

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import litdata.streaming.downloader
import pytest
import soundfile
import torch

from kdse.audio.files import AudioError
from kdse.data import Mixtures, NoisyFolder, PairedFolders
from kdse.data.corpus.corpora import scan
from kdse.data.corpus.indexing import build
from kdse.data.corpus.packing import pack, parts_of
from kdse.data.corpus.shards import Remote
from kdse.evaluation.options import add_item_options, held_out_of, item_record
from tests.data.fake_s3 import BUCKET, serve
from tests.data.small_corpus import hiss, put, real_corpus
from tests.data.test_position import Recorder, SaveEveryStep, fit, on_rank

COMMON = {"reverb_share": 0.5, "segment_seconds": 0.7, "seed": 7, "batch_size": 2, "steps_per_epoch": 4}


@pytest.fixture
def storage(shards, monkeypatch, tmp_path):
    """Object storage that holds the packed corpus, and an empty cache."""
    monkeypatch.setenv("KDSE_CACHE", str(tmp_path / "cache"))
    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_DEFAULT_REGION", "x")):
        monkeypatch.setenv(name, value)
    with serve(shards.parent) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        yield server


URL = f"s3://{BUCKET}/p"


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a
    )


def assert_same_mixtures(one: Mixtures, other: Mixtures, items: int = 24) -> None:
    for split, samples in (("train", 11200), ("valid", 20000)):
        a, b = (data.mixture_set(split, [-5, 15], samples, items, False) for data in (one, other))
        for key in itertools.product((0, 5), range(items)):
            assert same(a[key], b[key]), (split, key)
    for a, b in zip(one._split("train"), other._split("train"), strict=True):
        assert a.fingerprint == b.fingerprint


def test_mixtures_from_shards_are_those_from_the_folder_bit_for_bit(folder, shards):
    assert len(list((shards / "speech" / "train").glob("chunk-*.bin"))) > 2
    assert_same_mixtures(Mixtures(str(folder), **COMMON), Mixtures(str(shards), **COMMON))


def test_mixtures_from_object_storage_are_those_from_the_folder_bit_for_bit(folder, storage):
    assert_same_mixtures(Mixtures(str(folder), **COMMON), Mixtures(URL, **COMMON), items=4)
    chunks = [wanted for _, key, wanted in storage.requests if key.endswith(".bin")]
    assert chunks and all(chunks)  # every request names its range: no shard was fetched whole


def test_a_shard_cache_fetches_every_shard_once_and_gives_the_same(folder, storage, tmp_path):
    data = Mixtures(URL, shard_cache=str(tmp_path / "kept"), **COMMON)
    assert_same_mixtures(Mixtures(str(folder), **COMMON), data, items=8)
    fetched = [key for _, key, _ in storage.requests if key.endswith(".bin")]
    assert len(fetched) == len(set(fetched)) > 5
    again = len(storage.requests)
    data.mixture_set("train", [0, 5], 11200, 8, False)[(0, 3)]
    assert len(storage.requests) == again


def test_a_busy_answer_of_object_storage_is_tried_again(folder, storage):
    one, other = (Mixtures(where, **COMMON).mixture_set("train", [0, 5], 11200, 8, False) for where in (folder, URL))
    storage.fail = 2
    assert same(one[(0, 0)], other[(0, 0)]) and storage.fail == 0


FEED = """
import sys

if __name__ == "__main__":
    import torch

    from kdse.data import Mixtures

    settings = {"segment_seconds": 0.7, "seed": 7, "batch_size": 2, "steps_per_epoch": 3, "cache_gb": 0}
    places = ((sys.argv[1], 0), (sys.argv[2], 2))
    loaders = [Mixtures(where, num_workers=count, **settings).train_dataloader() for where, count in places]
    for a, b in zip(*loaders, strict=True):
        assert a["name"] == b["name"] and torch.equal(a["noisy"], b["noisy"]) and torch.equal(a["clean"], b["clean"])
    del loaders  # ends its processes, which outlive the signal that Python's exit would send them
    print("same")
"""


@pytest.mark.integration
def test_object_storage_feeds_several_data_workers(folder, storage, tmp_path):
    """In a process of its own: data workers have the environment that the first of them was started in."""
    (tmp_path / "feed.py").write_text(FEED)
    command = [sys.executable, str(tmp_path / "feed.py"), str(folder), URL]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]
    assert any(wanted for _, key, wanted in storage.requests if key.endswith(".bin"))


def test_what_is_not_in_object_storage_is_named_in_one_line(storage, shards):
    with pytest.raises(ValueError, match=rf"s3://{BUCKET}/nothing/rir/train: holds no packed corpus") as caught:
        next(iter(Mixtures(f"s3://{BUCKET}/nothing", **COMMON).train_dataloader()))
    assert "\n" not in str(caught.value)
    items = Mixtures(URL, **COMMON).mixture_set("train", [0, 5], 11200, 8, False)
    storage.root = storage.root / "gone"
    with pytest.raises(AudioError, match=rf"s3://{BUCKET}/p/.*/chunk-0-\d+\.bin: cannot be read"):
        items[(0, 0)]


def test_items_to_score_are_mixed_from_a_packed_corpus_on_disk_and_in_object_storage_alike(folder, shards, storage):
    """As `kdse evaluate --corpus` builds them; the record of a run keeps the URL as it is."""
    for split in ("speech", "noise"):
        assert (shards / split / "test" / "index.json").is_file()
    parser = argparse.ArgumentParser()
    add_item_options(parser)
    made = []
    for corpus in (str(folder), str(shards), URL):
        record = item_record(parser.parse_args(["--corpus", corpus, "--items", "2", "--seconds", "1"]))
        assert record["corpus"] == corpus
        made.append([item.noisy for item in held_out_of(record)])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*made, strict=True)) and made[0]


def test_litdata_itself_reads_the_shards_and_finds_every_file_as_it_was(folder, shards):
    from litdata import StreamingDataset

    for part in parts_of(folder):
        files = scan(folder / part, "--x")
        dataset = StreamingDataset(str(shards / part), shuffle=False)
        assert len(dataset) == len(files)
        assert all(dataset[i] == files.file(i).read_bytes() for i in range(len(files)))


def test_a_plain_folder_of_recordings_packs_whole_and_noisy_folder_reads_it(tmp_path):
    for i in range(7):
        put(tmp_path / "c" / f"{i % 2}" / f"{i}.flac", hiss(0.3 + 0.1 * i, seed=i))
    pack(tmp_path / "c", tmp_path / "p", shard_mb=0.02)
    settings = {"segment_seconds": 0.4, "batch_size": 3, "seed": 5}
    batches = [list(NoisyFolder(str(tmp_path / name), **settings).train_dataloader()) for name in ("c", "p")]
    assert len(batches[0]) == 2 and all(
        a["name"] == b["name"] and torch.equal(a["noisy"], b["noisy"]) for a, b in zip(*batches, strict=True)
    )


def test_callers_that_need_files_refuse_shards_by_name(tmp_path):
    for name in ("noisy", "clean"):
        put(tmp_path / "c" / name / "1.wav", hiss(0.2))
        pack(tmp_path / "c" / name, tmp_path / name)
    with pytest.raises(ValueError, match="--data.noisy .*shards are not read here"):
        PairedFolders(noisy=str(tmp_path / "noisy"), clean=str(tmp_path / "clean")).pairs("test")
    data = NoisyFolder(str(tmp_path / "noisy"), teacher_folder=str(tmp_path / "c" / "clean"))
    with pytest.raises(ValueError, match="--data.folder .*shards are not read here"):
        data.train_dataloader()


def test_a_setting_that_does_not_apply_is_refused_by_name(folder, shards):
    for data, message in (
        (Mixtures(str(folder), shard_cache="/kept", **COMMON), "--data.shard_cache /kept: .* not in object storage"),
        (Mixtures(str(shards), shard_cache="/kept", **COMMON), "--data.shard_cache /kept: .* not in object storage"),
        (Mixtures(str(shards), manifest="/m.kdse", **COMMON), "--data.manifest /m.kdse: .* holds shards"),
        (Mixtures(URL, manifest="/m.kdse", **COMMON), "--data.manifest /m.kdse: .* holds shards"),
        (NoisyFolder(str(shards / "speech" / "train"), manifest="/m"), "--data.manifest /m: .* holds shards"),
    ):
        with pytest.raises(ValueError, match=message):
            data.train_dataloader()


def test_a_resume_in_the_middle_of_an_epoch_goes_on_with_the_right_sample(folder, shards, tmp_path):
    """From shards, with data workers, at another number of them, and as the folder would have gone on."""
    settings = {**COMMON, "steps_per_epoch": 5}
    whole = fit(Mixtures(str(folder), **settings), tmp_path)
    packed = [Mixtures(str(shards), num_workers=workers, **settings) for workers in (2, 1)]
    assert fit(packed[0], tmp_path, callbacks=[SaveEveryStep(tmp_path)]) == whole
    assert fit(packed[1], tmp_path, ckpt=str(tmp_path / "7.ckpt"), model=Recorder()) == whole[7:]


def test_ranks_share_out_what_one_process_would_see(shards):
    alone = list(Mixtures(str(shards), **{**COMMON, "batch_size": 4}).train_dataloader())
    ranks = [list(on_rank(Mixtures(str(shards), **COMMON), rank, 2).train_dataloader()) for rank in range(2)]
    for one, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(one["noisy"], torch.cat([part["noisy"] for part in parts]))


def test_shards_travel_to_data_workers_without_their_list(shards, storage):
    local, remote = scan(shards / "speech" / "train", "--x"), scan(f"{URL}/speech/train", "--x")
    remote.read(0, 16000, 0, 100)
    for corpus in (local, remote):
        again = pickle.loads(pickle.dumps(corpus))
        assert torch.equal(again.read(1, 16000), corpus.read(1, 16000))


@pytest.mark.parametrize("content", ["[1]", "{}", '{"chunks": []}', "nonsense", '"text"', "3", "null"])
def test_audio_beside_an_index_json_of_something_else_is_read(tmp_path, content):
    put(tmp_path / "a.wav", hiss(0.1))
    (tmp_path / "index.json").write_text(content)
    assert scan(tmp_path, "--x").paths == ("a.wav",)


@pytest.mark.parametrize(
    "content", ["[1]", "{}", '{"chunks": [], "config": {}}', '{"chunks": [], "config": {}, "kdse": 1}']
)
def test_an_index_json_of_something_else_in_object_storage_is_one_line(storage, tmp_path, content):
    storage.root = tmp_path
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "index.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{URL}: holds shards that kdse did not pack.*$"):
        scan(URL, "--x")


class Whole(litdata.streaming.downloader.Downloader):
    """A client that reads files as a whole only, as Azure's does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched = folder, 0

    def download_file(self, remote, local):
        if not os.path.exists(local):
            self.fetched += 1
            shutil.copy(self.folder / remote.rsplit("/", 1)[1], local)


def test_reading_object_storage_leaves_nothing_in_the_temporary_folder(storage, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    corpus = scan(f"{URL}/speech/train", "--x")
    wanted = [corpus.read(i, 16000) for i in range(3)]
    assert not list(tmp_path.glob("kdse-shards-*"))
    remote, client = corpus.shards._source, Whole(shards / "speech" / "train")
    remote._downloader, remote._ranges = client, False
    assert all(torch.equal(corpus.read(i, 16000), wanted[i]) for i in range(3))
    assert 0 < client.fetched <= len(corpus.shards.names) and len(list(tmp_path.glob("kdse-shards-*"))) == 1

    def works(shards):  # in a data worker, with a connection of its own
        shards._source = Remote(shards.place)
        shards._source._downloader, shards._source._ranges = client, False
        with shards.open(0) as first:
            ended.value = bool(first.read()) and len(list(tmp_path.glob("kdse-shards-*"))) == 2

    context = multiprocessing.get_context("fork")
    ended = context.Value("b", False)
    process = context.Process(target=works, args=(corpus.shards,))
    process.start()
    process.join(60)
    assert ended.value and len(list(tmp_path.glob("kdse-shards-*"))) == 1
    del corpus, remote
    gc.collect()
    assert not list(tmp_path.glob("kdse-shards-*"))


def test_a_damaged_copy_of_a_remote_manifest_says_what_to_do(storage, tmp_path):
    scan(f"{URL}/noise/train", "--x")
    (copy,) = (tmp_path / "cache" / "manifests").iterdir()
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{copy.name}: .*is damaged; remove it, it is fetched again"):
        scan(f"{URL}/noise/train", "--x")
    copy.unlink()
    assert len(scan(f"{URL}/noise/train", "--x")) == 4


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "foreign", "index", "mixed"])
def test_damaged_shards_are_named(tmp_path, damage):
    put(tmp_path / "c" / "a.wav", hiss(0.5))
    out = tmp_path / "p"
    pack(tmp_path / "c", out)
    chunk, index = out / "chunk-0-0.bin", out / "index.json"
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-9])
    elif damage == "gone":
        chunk.unlink()
    elif damage == "manifest":
        (out / "manifest.kdse").write_bytes(b"?")
    elif damage == "mixed":
        put(tmp_path / "d" / "a.wav", hiss(0.5))
        put(tmp_path / "d" / "b.wav", hiss(0.5))
        (out / "manifest.kdse").write_bytes(build(tmp_path / "d").manifest.read_bytes())
    elif damage == "index":
        index.write_text("{")
    else:
        index.write_text(json.dumps({k: v for k, v in json.loads(index.read_text()).items() if k != "kdse"}))
    name = {"cut": "chunk-0-0.bin", "gone": "chunk-0-0.bin", "manifest": "manifest.kdse"}.get(damage, "p")
    with pytest.raises(ValueError, match=name) as caught:
        scan(out, "--data.root").read(0, 16000)
    assert "\n" not in str(caught.value)


def test_without_litdata_the_error_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    monkeypatch.setitem(sys.modules, "litdata.streaming.downloader", None)
    for call in (lambda: pack(folder, tmp_path / "p"), lambda: scan("s3://bucket/p", "--data.root")):
        with pytest.raises(ValueError, match=r"pip install 'kdse\[shards\]'"):
            call()


def test_local_shards_are_read_without_litdata(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    assert len(next(iter(Mixtures(str(shards), **COMMON).train_dataloader()))["name"]) == 2


def test_real_recordings_mix_from_shards_as_from_the_folder(tmp_path):
    root = real_corpus()
    for kind in ("speech", "noise"):  # a part of it, linked
        files = sorted((root / kind / "valid").rglob("*.flac"))[:12]
        assert files and soundfile.info(str(files[0])).frames
        (tmp_path / "c" / kind / "train").mkdir(parents=True)
        for number, file in enumerate(files):
            os.symlink(file, tmp_path / "c" / kind / "train" / f"{number}.flac")
    pack(tmp_path / "c", tmp_path / "p", shard_mb=1)
    sets = [Mixtures(str(tmp_path / n), seed=3).mixture_set("train", [0, 5], 32000, 0, False) for n in ("c", "p")]
    assert all(same(sets[0][(0, i)], sets[1][(0, i)]) for i in range(20))
