"""Public test sets announce themselves, and a noisy input that is not theirs is warned of."""

from __future__ import annotations

import math

import pytest

from kdse.data.known_sets import DNS_NO_REVERB, DNS_WITH_REVERB, VOICEBANK_DEMAND, compare_noisy, recognise, undecided

VOICEBANK = [f"p{speaker}_{i:03d}" for speaker in (232, 257) for i in range(1, 413)]
DNS = [f"clnsp{i}_traffic_{i}_3_snr{i % 20}_tl-21_fileid_{i}" for i in range(150)]


def test_sets_are_recognised_by_their_file_names():
    found = recognise([f"noisy/{name}" for name in VOICEBANK], "anywhere")
    assert found is not None and found.known is VOICEBANK_DEMAND and found.whole
    for folder, known in (("x/no_reverb/noisy", DNS_NO_REVERB), ("x/with_reverb/noisy", DNS_WITH_REVERB)):
        found = recognise(DNS, folder)
        assert found is not None and found.known is known and found.whole


@pytest.mark.parametrize("names", [[], ["a", "b"], [*VOICEBANK, "p226_001"], [*VOICEBANK, DNS[0]], ["p232_001x"]])
def test_other_files_are_not_taken_for_a_public_set(names):
    assert recognise(names, "no_reverb") is None


def test_dns_files_without_a_telling_folder_are_not_guessed():
    assert recognise(DNS, "noisy") is None


def test_published_values_pass_and_others_are_warned_of():
    found = recognise(DNS, "no_reverb")
    assert found is not None
    published = {metric: value for metric, (value, _) in DNS_NO_REVERB.noisy.items()}
    told, warned = compare_noisy(found, published)
    assert len(told) == 3 and not warned
    told, warned = compare_noisy(found, {**published, "stoi": 0.8305})  # eSTOI under the name of STOI
    assert len(told) == 2 and len(warned) == 1 and "stoi" in warned[0] and "0.83" in warned[0] and "0.9152" in warned[0]


def test_the_two_dns_sets_do_not_pass_for_each_other():
    found = recognise(DNS, "no_reverb")
    assert found is not None
    _, warned = compare_noisy(found, {metric: value for metric, (value, _) in DNS_WITH_REVERB.noisy.items()})
    assert {text.split(": ")[1].split(" ")[0] for text in warned} == {"pesq_wb", "stoi"}  # 9.03 and 9.07 dB


def test_a_part_of_a_set_is_told_and_not_checked():
    found = recognise(VOICEBANK[:110], "")
    assert found is not None and not found.whole
    told, warned = compare_noisy(found, {"pesq_wb": 1.6})
    assert not warned and "110 of the 824" in told[0]


def test_a_value_that_failed_is_not_checked():
    found = recognise(VOICEBANK, "")
    assert found is not None
    told, warned = compare_noisy(found, {"pesq_wb": math.nan, "si_sdr": 8.4})
    assert not warned and "none of the metrics" in told[0]


@pytest.mark.parametrize(
    ("known", "stated"),  # as the papers print them
    [
        (DNS_NO_REVERB, {"pesq_wb": 1.582, "stoi": 0.9152, "si_sdr": 9.07}),
        (DNS_WITH_REVERB, {"pesq_wb": 1.822, "stoi": 0.8662, "si_sdr": 9.03}),
        (VOICEBANK_DEMAND, {"pesq_wb": 1.97, "csig": 3.35, "cbak": 2.44, "covl": 2.63, "seg_snr": 1.68}),
    ],
)
def test_published_values_are_those_of_the_papers(known, stated):
    assert {metric: value for metric, (value, _) in known.noisy.items()} == stated


def test_a_raw_score_published_as_narrow_band_pesq_is_told_and_not_compared():
    found = recognise(DNS, "no_reverb")
    assert found is not None
    told, warned = compare_noisy(found, {"pesq_nb": 2.08, "si_sdr": 9.07})
    assert not warned and any("pesq_nb is not compared" in text and "2.454" in text for text in told)


def test_a_part_of_the_dns_set_is_not_checked_either():
    found = recognise(DNS[:40], "with_reverb")
    assert found is not None and compare_noisy(found, {"si_sdr": 0.0})[1] == []


@pytest.mark.parametrize(
    ("names", "folder", "why"),
    [
        (DNS, "noisy", "does not say which"),
        (DNS, "no_reverb and with_reverb", "does not say which"),
        ([*VOICEBANK, "p226_001"], "", "824 of 825"),
        (VOICEBANK, "", ""),
        (["a", "b", "p232_001"], "", ""),
    ],
)
def test_a_set_that_is_almost_recognised_is_not_passed_over_in_silence(names, folder, why):
    assert why in undecided(names, folder) and bool(why) == bool(undecided(names, folder))
