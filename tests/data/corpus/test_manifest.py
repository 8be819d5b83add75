"""A manifest says exactly what the files say, is whole or refused, and changes no mixture."""

import hashlib
import os
import pickle
import random
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

import kdse.data.corpus.corpora as corpora
from kdse.audio.files import AudioError
from kdse.audio.listing import Measured, audio_files, place_key
from kdse.data import Mixtures, NoisyFolder, PairedFolders
from kdse.data.corpus.corpora import scan
from kdse.data.corpus.indexing import build
from kdse.data.corpus.manifest import NAME, load, write
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses
from tests.data.tricky import make_tricky

#: Of the code before there were manifests, on the corpus of `make_tricky`.
OLD_PRINTS = [
    "10a7d4a6f2dd1b091c7f4aeac3de475efced18bc999329866e62ace4f53bacf4",
    "ef1598bc8a687097968721b50f1d1f6aeaf823d55de25a64cdecca37a802378b",
    "c8d248cc94329504b020ad21955494586f1fac2881b503c2726416faa0267f9e",
]
OLD_READS = "c23627a09d66a883689ec44dbc13eb3c041582743f2cda9db079ed3d511558af"
OLD_SNRS = "25a4215242cb93ae3a1437090fca63f84aaee6376cb14e4df73a3ef9988a33bd"
OLD_NOISY, OLD_CLEAN = 308.75824198377086, 260.1353923144977  # sums of |x| of item (3, 5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return make_tricky(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> Path:
    root = make_tricky(tmp_path_factory.mktemp("indexed"))
    build(root)
    return root


def mixtures(root, **settings) -> Mixtures:
    return Mixtures(root=str(root), **{"reverb_share": 0.5, "segment_seconds": 0.7, "seed": 7, **settings})


@pytest.mark.parametrize("which", ["plain", "indexed"])
def test_mixtures_of_existing_corpora_are_those_of_the_code_before_manifests(which, request, monkeypatch):
    root = request.getfixturevalue(which)
    reads, snrs = [], []
    read = corpora.read

    def recorded(path, rate, start=0, stop=None):
        reads.append((Path(path).relative_to(root).as_posix(), rate, start, stop))
        return read(path, rate, start, stop)

    monkeypatch.setattr(corpora, "read", recorded)
    data = mixtures(root)
    for split in ("train", "valid"):
        items = data.mixture_set(split, data.snr_db, 11200, 40, False)
        for epoch in (0, 3):
            for i in range(40):
                item = items[(epoch, i)]
                snrs.append((split, epoch, i, round(float(item["snr_db"]), 5), item["name"]))
    assert [corpus.fingerprint for corpus in data._split("train")] == OLD_PRINTS
    assert (len(reads), hashlib.sha256(repr(reads).encode()).hexdigest()) == (580, OLD_READS)
    assert hashlib.sha256(repr(snrs).encode()).hexdigest() == OLD_SNRS
    item = data.mixture_set("train", data.snr_db, 11200, 40, False)[(3, 5)]
    assert float(item["noisy"].double().abs().sum()) == pytest.approx(OLD_NOISY, rel=1e-4)
    assert float(item["clean"].double().abs().sum()) == pytest.approx(OLD_CLEAN, rel=1e-4)


def test_a_corpus_from_a_manifest_is_the_one_from_the_files(plain, indexed):
    for folder in ("", "speech", "speech/train", "speech/train/a", "noise/valid", "rir/test"):
        one, other = scan(plain / folder, "--x"), scan(indexed / folder, "--x")
        assert one.manifest is None and other.manifest is not None
        assert list(other.paths) == list(one.paths) and other.paths == one.paths
        assert [other.paths[i] for i in range(len(other))] == list(one.paths) and other.paths[-1] == one.paths[-1]
        assert (tuple(other.frames), tuple(other.rates)) == (one.frames, one.rates)
        assert other.fingerprint == one.fingerprint
        assert other.lengths(16000).tolist() == [one.samples(i, 16000) for i in range(len(one))]
        assert [other.file(i).relative_to(indexed) for i in range(len(other))] == [
            one.file(i).relative_to(plain) for i in range(len(one))
        ]


def test_nothing_is_walked_or_opened_where_there_is_a_manifest(indexed, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("looked at the files")

    monkeypatch.setattr(corpora, "info", refuse)
    monkeypatch.setattr(corpora, "list_audio", refuse)
    data = mixtures(indexed, batch_size=2, steps_per_epoch=1)
    assert len(next(iter(data.train_dataloader()))["name"]) == 2
    assert len(scan(indexed / "speech", "--x")) == 14


def test_paths_sort_as_pathlib_sorts_them(tmp_path):
    rng = random.Random(1)
    names = {"/".join("".join(rng.choices("ab- _A1é", k=2)).strip() or "x" for _ in range(3)) for _ in range(300)}
    assert sorted(names, key=place_key) == [str(p) for p in sorted(map(Path, names))]
    for name in sorted(names)[:40]:
        put(tmp_path / f"{name}.wav", np.zeros(4))
    wanted = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert audio_files(tmp_path) == [p.relative_to(tmp_path).as_posix() for p in wanted]


def test_names_of_any_bytes_are_kept(tmp_path):
    strange = [os.fsdecode(b"caf\xe9/\xff.wav"), "日本/語.wav", "new\nline.wav"]
    write(tmp_path / "m", "/x", "header", [Measured(name, 3, 8000, 1, 9, 7, "") for name in strange])
    assert list(load(tmp_path / "m").paths) == sorted(strange, key=place_key)
    assert list(load(tmp_path / "m").below("日本").paths) == ["語.wav"]


def test_a_corpus_travels_to_data_workers_without_its_list(tmp_path):
    write(
        tmp_path / NAME, "/x", "header", [Measured(f"{i // 100}/{i}.wav", i, 16000, 1, 9, 7, "") for i in range(9000)]
    )
    (tmp_path / "7").mkdir()
    corpus = scan(tmp_path / "7", "--x")
    sent = pickle.dumps(corpus)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert list(again.paths) == list(corpus.paths) and again.frames.tolist() == list(range(700, 800))
    assert again.file(3) == tmp_path / "7" / "703.wav"
    write(tmp_path / NAME, "/x", "header", [Measured("a.wav", 1, 16000, 1, 9, 7, "")])
    with pytest.raises(ValueError, match="replaced while it was in use"):
        pickle.loads(sent)


@pytest.mark.parametrize("damage", ["header", "body", "cut", "empty", "other", "version"])
def test_a_damaged_manifest_is_refused_by_name(tmp_path, damage):
    put(tmp_path / "c" / "a.wav", hiss(0.1))
    file = build(tmp_path / "c").manifest
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[60] ^= 1
    elif damage == "body":
        content[-3] ^= 1
    elif damage == "version":
        content[14:15] = b"9"
    file.write_bytes({"cut": content[:-1], "empty": b"", "other": b"RIFF" + content}.get(damage, content))
    with pytest.raises(ValueError, match=rf"manifest\.kdse: .*`kdse corpus index {tmp_path}/c --update`") as caught:
        scan(tmp_path / "c", "--data.root")
    assert "\n" not in str(caught.value)
    done = build(tmp_path / "c", update=True)  # the command that the error names
    assert done.measured == 1 and done.replaced == str(caught.value)
    assert scan(tmp_path / "c", "--data.root").frames.tolist() == [1600]


def test_a_file_of_that_name_above_a_corpus_is_named_and_both_ways_out_work(tmp_path):
    root = tmp_path / "home" / "corpus"
    put(root / "a.wav", hiss(0.1))
    junk = tmp_path / "home" / NAME
    for way in ("index", "remove"):
        junk.write_text("mine")
        with pytest.raises(ValueError, match=rf"{junk}: is no manifest; .*`kdse corpus index {junk.parent} --update`"):
            scan(root, "--x")
        if way == "index":
            build(junk.parent, update=True)
        else:
            junk.unlink()
        assert (scan(root, "--x").manifest is None) == (way == "remove")


def test_what_a_list_is_from_is_logged_with_its_date(indexed, caplog):
    os.utime(indexed / NAME, (1e9, 1e9))
    with caplog.at_level("INFO", "kdse.data.corpus.corpora"):
        scan(indexed / "rir" / "train", "--x")
    wanted = f"1 files from {indexed / NAME} of {datetime.fromtimestamp(1e9):%Y-%m-%d %H:%M}"
    assert {r.getMessage() for r in caplog.records} == {f"--x {indexed}/rir/train: {wanted}"}


def test_the_list_of_shards_serves_no_audio_files_beside_or_below_them(tmp_path):
    put(tmp_path / "p" / "x" / "a.wav", hiss(0.1))
    write(tmp_path / "p" / NAME, "/x", "header", [Measured("x/a.wav", 9, 8000, 1, 9, 7, "")])
    assert scan(tmp_path / "p" / "x", "--x").frames.tolist() == [9]
    (tmp_path / "p" / "index.json").write_text('{"chunks": [], "config": {}}')
    assert scan(tmp_path / "p" / "x", "--x").frames == (1600,)


@pytest.mark.parametrize("change", ["gone", "size"])
@pytest.mark.parametrize("kind", ["mixtures", "noisy", "paired"])
def test_a_file_that_is_not_the_listed_one_is_named_with_the_command(tmp_path, kind, change):
    root = make_corpus(tmp_path / "c", files=1, seconds=0.5)
    clean = tone_and_pauses(0.5)
    put(root / "pairs" / "noisy" / "1.wav", clean + hiss(0.5))
    put(root / "pairs" / "clean" / "1.wav", clean)
    put(root / "pairs" / "noisy" / "2.wav", clean + hiss(0.5))
    put(root / "pairs" / "clean" / "2.wav", clean)
    build(root)
    common = {"segment_seconds": 0.2, "batch_size": 2, "steps_per_epoch": 2, "seed": 1}
    if kind == "paired":
        folders = {f"train_{side}": str(root / "pairs" / side) for side in ("noisy", "clean")}
        data, files = PairedFolders(**folders, **common), [root / "pairs" / "clean" / f"{i}.wav" for i in (1, 2)]
    elif kind == "noisy":
        data, files = NoisyFolder(str(root / "noise" / "train"), **common), [root / "noise" / "train" / "noise0.flac"]
    else:
        data, files = Mixtures(str(root), **common), [root / "speech" / "train" / "voice0.flac"]
    for file in files:
        if change == "gone":
            file.unlink()
        else:
            put(file, hiss(0.3))
    with pytest.raises(AudioError, match=rf"{files[0].suffix}: .*out of date; run `kdse corpus index FOLDER --update`"):
        next(iter(data.train_dataloader()))


def test_a_manifest_elsewhere_serves_a_folder_that_cannot_be_written(plain, tmp_path):
    file = build(plain, tmp_path / "lists" / "m.kdse").manifest
    assert not (plain / NAME).exists()
    one, other = mixtures(plain), mixtures(plain, manifest=str(file))
    assert all(corpus.manifest is not None for corpus in other._split("train"))
    sets = [m.mixture_set("train", [0, 5], 8000, 0, False) for m in (one, other)]
    assert all(torch.equal(sets[0][(0, i)]["noisy"], sets[1][(0, i)]["noisy"]) for i in range(5))


def test_a_manifest_of_another_folder_is_refused(plain, indexed, tmp_path):
    file = build(indexed, tmp_path / "m.kdse").manifest
    with pytest.raises(ValueError, match=r"--data\.manifest .*m\.kdse: describes .*indexed.*, which does not hold"):
        mixtures(plain, manifest=str(file))._split("train")
    (indexed / "speech" / "extra").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"lists no file below .*--update"):
        scan(indexed / "speech" / "extra", "--x", file)
    with pytest.raises(ValueError, match="none.kdse: the manifest cannot be read"):
        scan(indexed, "--x", tmp_path / "none.kdse")


def test_a_folder_that_the_manifest_above_says_nothing_of_is_walked_and_the_log_says_so(indexed, caplog):
    put(indexed / "new" / "a.wav", hiss(0.1))
    with caplog.at_level("INFO", "kdse.data.corpus.corpora"):
        corpus = scan(indexed / "new", "--x")
    assert corpus.paths == ("a.wav",) and corpus.manifest is None
    assert "lists no file below" in caplog.text
