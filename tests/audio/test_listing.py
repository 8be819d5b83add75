"""Linked folders are gone through once each, and what is left out is counted and named."""

import os

import soundfile

from kdse.audio.listing import ENDINGS, audio_files, extensions, list_audio
from tests.data.small_corpus import hiss, put


def test_linked_folders_are_followed_once_each_and_loops_end(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    put(root / "own" / "a.wav", hiss(0.1))
    put(other / "deep" / "b.wav", hiss(0.1))
    for link, target in {
        "z": other, "b": other, "loop": root, "own/up": root / "own", "file.wav": other / "deep/b.wav",
        "other_way": other / "deep", "gone": tmp_path / "nowhere", "itself.wav": root / "itself.wav",
    }.items():  # fmt: skip
        os.symlink(target, root / link)
    os.symlink(root, other / "back")
    there = list_audio(root)
    assert there.files == ["b/deep/b.wav", "file.wav", "own/a.wav"]
    assert there.dead_links == ["gone", "itself.wav"]
    assert there.seen_links == ["b/back", "loop", "other_way", "own/up", "z"]


def test_a_folder_that_is_there_itself_is_not_found_by_a_link_that_sorts_before_it(tmp_path):
    put(tmp_path / "z" / "a.wav", hiss(0.1))
    os.symlink(tmp_path / "z", tmp_path / "a")
    assert audio_files(tmp_path) == ["z/a.wav"]


def test_what_is_left_out_is_counted_by_ending_and_shown_in_one_line(tmp_path):
    for name in ("a.m4a", "b.M4A", "c.xyz", "README", ".hidden.xyz", "manifest.kdse", "a.wav"):
        (tmp_path / name).write_bytes(b"")
    os.symlink("nowhere", tmp_path / "\x1b[31m\nred")
    there = list_audio(tmp_path)
    assert there.files == ["a.wav"]
    assert there.left_out() == r"4 left out: .m4a 2, .xyz 1, without ending 1; 1 dead links: \x1b[31m\nred"
    (tmp_path / "only").mkdir()
    assert list_audio(tmp_path / "only").left_out() == ""


def test_every_container_of_the_installed_libsndfile_is_read_or_left_out_on_purpose():
    on_purpose = {"RAW", "MAT4", "MAT5", "HTK", "SD2", "WAVEX", "MPC2K"}
    assert set(soundfile.available_formats()) <= set(ENDINGS) | on_purpose
    assert {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".w64", ".caf", ".au"} <= extensions()
