"""Files whose names differ from those wanted by one prefix or suffix are matched; ambiguous ones are refused."""

from __future__ import annotations

import logging

import pytest

from kdse.data.affixes import INPUT_WORDS, TARGET_WORDS, Affix, common_affix
from kdse.data.file_pairs import find_pairs
from tests.data.small_corpus import hiss, put, tone_and_pauses

FLAGS = ("--paired", "--paired")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("{}", Affix()),
        ("{}_DeepFilterNet3", Affix(after="_DeepFilterNet3")),
        ("enhanced-{}.v2", Affix("enhanced-", ".v2")),
        ("{}0", None),  # u1 is no u10
        ("other_{}x", None),
    ],
)
def test_a_common_prefix_and_suffix_are_found(files, expected):
    names = ["u1", "u2", "a/u10"]
    held = [name.replace(last := name.rsplit("/", 1)[-1], files.format(last)) for name in names]
    assert common_affix(names, held, "here", ()) == expected


def test_most_names_decide_and_a_file_may_be_missing():
    names = [f"u{i}" for i in range(30)]
    held = [f"{name}_enhanced" for name in names[5:]] + ["u1_x", "other"]
    assert common_affix(names, held, "here", ()) == Affix(after="_enhanced")
    assert common_affix(names, held[:10], "here", ()) is None


def test_what_is_surely_not_meant_is_passed_over_and_two_kinds_are_refused_by_name():
    names = ["u1", "u2"]
    held = [f"{name}_{kind}" for name in names for kind in ("noisy", "enhanced")]
    assert common_affix(names, held, "here", INPUT_WORDS) == Affix(after="_enhanced")
    with pytest.raises(ValueError, match=r"here: files called NAME_(noisy|enhanced) and NAME_(noisy|enhanced) fit"):
        common_affix(names, held, "here", TARGET_WORDS)


@pytest.mark.parametrize(
    ("noisy", "clean"),
    [("{}", "{}_clean"), ("noisy_{}", "clean_{}"), ("{}_noisy", "{}"), ("{}_v3", "{}"), ("x/{}_mix", "x/ref_{}")],
)
def test_noisy_and_clean_files_may_say_which_they_are(noisy, clean, tmp_path, caplog):
    for i, name in enumerate(("p232_001", "p257_002")):
        speech = tone_and_pauses(0.1, seed=i)
        put(tmp_path / "noisy" / f"{noisy.format(name)}.wav", speech + hiss(0.1, seed=i))
        put(tmp_path / "clean" / f"{clean.format(name)}.wav", speech)
    with caplog.at_level(logging.WARNING, "kdse"):
        logging.getLogger("kdse").propagate = True  # (off after a command ran in this process)
        pairs = find_pairs(tmp_path / "noisy", tmp_path / "clean", 16000, FLAGS)
    assert [pair.name for pair in pairs] == [noisy.format(name) for name in ("p232_001", "p257_002")]
    for pair, name in zip(pairs, ("p232_001", "p257_002"), strict=True):
        assert pair.clean.endswith(f"{clean.format(name)}.wav")
    assert [record.getMessage().count("are matched to NAME") for record in caplog.records] == [1]


def test_all_mismatches_are_listed_together_and_many_are_counted(tmp_path):
    for i in range(30):
        put(tmp_path / "noisy" / f"{i:02d}.wav", hiss(0.1))
        put(tmp_path / "clean" / f"{i:02d}.wav", hiss(0.2 if i > 25 else 0.1))
    for i in range(23):
        (tmp_path / "clean" / f"{i:02d}.wav").unlink()
    put(tmp_path / "clean" / "extra.wav", hiss(0.1))
    with pytest.raises(ValueError) as refusal:
        find_pairs(tmp_path / "noisy", tmp_path / "clean", 16000, FLAGS)
    text = str(refusal.value)
    assert "\n" not in text and "19.wav and 3 more of" in text and "for extra.wav of" in text
    assert all(f"{i}.wav lasts 0.100 s" in text for i in range(26, 30))
