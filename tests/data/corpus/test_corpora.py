import numpy as np
import pytest

from kdse.data.corpus.corpora import corpus_root, scan
from tests.data.small_corpus import hiss, put


def test_files_are_listed_by_sorted_relative_path_with_lengths_and_rates(tmp_path):
    put(tmp_path / "b.wav", hiss(0.1, 48000), 48000)
    put(tmp_path / "a" / "z.flac", hiss(0.2))
    put(tmp_path / "a" / "Y.FLAC", hiss(0.3), format="FLAC")
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "._b.wav").write_bytes(b"what macOS leaves behind")
    corpus = scan(tmp_path, "--data.root")
    assert corpus.paths == ("a/Y.FLAC", "a/z.flac", "b.wav")
    assert corpus.frames == (4800, 3200, 4800)
    assert corpus.rates == (16000, 16000, 48000)
    assert [corpus.samples(i, 16000) for i in range(len(corpus))] == [4800, 3200, 1600]
    assert corpus.file(2) == tmp_path / "b.wav"


def test_the_fingerprint_depends_on_names_and_lengths_and_not_on_the_folder(tmp_path):
    for folder in ("one", "two", "renamed", "longer"):
        put(tmp_path / folder / ("b.wav" if folder == "renamed" else "a.wav"), hiss(0.2 if folder == "longer" else 0.1))
    prints = [scan(tmp_path / f, "--x").fingerprint for f in ("one", "two", "renamed", "longer")]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "holds no audio"),
        (lambda folder: put(folder / "empty.wav", np.zeros(0)), r"empty\.wav: holds no samples"),
        (lambda folder: (folder.mkdir(), (folder / "bad.wav").write_bytes(b"?")), r"bad\.wav: not readable"),
    ],
)
def test_a_bad_folder_is_named_in_one_line(tmp_path, prepare, message):
    prepare(tmp_path / "here")
    with pytest.raises(ValueError, match=message) as caught:
        scan(tmp_path / "here", "--data.root")
    assert "here" in str(caught.value) and "\n" not in str(caught.value)


def test_without_flag_and_environment_the_error_says_what_to_give(monkeypatch):
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    with pytest.raises(ValueError, match=r"--data\.root.*KDSE_CORPUS"):
        corpus_root(None)
    monkeypatch.setenv("KDSE_CORPUS", "/from/environment")
    assert str(corpus_root(None)) == "/from/environment"
    assert str(corpus_root("/from/flag")) == "/from/flag"
