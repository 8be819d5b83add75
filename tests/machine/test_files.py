"""A result file is there as a whole or not at all, whatever it is called and whatever goes wrong."""

import os
import resource

import pytest

from kdse.machine.files import fitting, write_text


@pytest.fixture
def almost_full_disk():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # a write beyond it fails, as on a full disk
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_loses_nothing_and_is_named(tmp_path, almost_full_disk):
    file = write_text(tmp_path / "scores.json", "the old scores")
    with pytest.raises(ValueError, match=r"scores\.json: could not be written \(File too large\)"):
        write_text(file, "x" * 4000)
    assert file.read_text() == "the old scores" and os.listdir(tmp_path) == ["scores.json"]
    with pytest.raises(ValueError, match="could not be written"):
        write_text(file / "below" / "a.json", "x")


@pytest.mark.parametrize("name", [b"x" * 255, b"caf\xe9.json", b"two\nlines"])
def test_a_file_may_have_any_name_that_the_disk_takes(tmp_path, name):
    file = tmp_path / os.fsdecode(name)
    assert write_text(file, "content").read_text() == "content"
    assert os.listdir(os.fsencode(tmp_path)) == [name]


def test_names_that_are_not_utf8_appear_in_a_text_as_escapes(tmp_path):
    assert write_text(tmp_path / "a.csv", os.fsdecode(b"caf\xe9.wav, 1\n")).read_text() == "caf\\udce9.wav, 1\n"


def test_names_that_were_made_too_long_are_cut_and_stay_apart():
    names = [fitting(letter * 199 + "é" + end) for letter in "xé" for end in "ab"]
    assert len(set(names)) == 4 and max(len(os.fsencode(name)) for name in names) <= 200
    assert fitting("é" * 100) == "é" * 100
