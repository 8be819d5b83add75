"""Public test sets that are recognised by their file names, and what their unprocessed input is known to score."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Published(NamedTuple):
    """A published mean of the noisy input: value and tolerance, both in the unit of `kdse.metrics.METRICS`."""

    value: float
    tolerance: float


class KnownSet(NamedTuple):
    """A public test set.

    name: for people. files: how many it has. noisy: metric to what its noisy input scores. source: of these values.
    unlike: metric to a value that is published under its name and is another quantity.
    """

    name: str
    files: int
    noisy: Mapping[str, Published]
    source: str
    unlike: Mapping[str, str] = {}


class Recognised(NamedTuple):
    """A set that the files belong to, and how many of its files they are."""

    known: KnownSet
    files: int

    @property
    def whole(self) -> bool:
        """Whether all of the set is there; only then do its published values hold."""
        return self.files == self.known.files


#: pypesq, with which those papers score, gives raw P.862 scores; ours are P.862.1, mapped to MOS-LQO.
RAW_PESQ = "the published {} is a raw P.862 score, not the MOS-LQO of P.862.1 that is meant here"

# Tolerances are ours: half a unit of the last published digit, and room for another resampler or pesq version.
VOICEBANK_DEMAND = KnownSet(
    "VoiceBank-DEMAND test set",
    824,
    {
        "pesq_wb": Published(1.97, 0.02),
        "csig": Published(3.35, 0.05),
        "cbak": Published(2.44, 0.05),
        "covl": Published(2.63, 0.05),
        "seg_snr": Published(1.68, 0.1),
    },
    "Pascual et al. 2017 (SEGAN), table 1",
)
DNS_NO_REVERB = KnownSet(
    "DNS-2020 synthetic test set without reverb",
    150,
    {
        "pesq_wb": Published(1.582, 0.01),
        "stoi": Published(0.9152, 0.001),
        "si_sdr": Published(9.07, 0.05),
    },
    "noisy row of FullSubNet's table (Hao et al. 2021) and later papers",
    {"pesq_nb": RAW_PESQ.format("2.454")},
)
DNS_WITH_REVERB = KnownSet(
    "DNS-2020 synthetic test set with reverb",
    150,
    {
        "pesq_wb": Published(1.822, 0.01),
        "stoi": Published(0.8662, 0.001),
        "si_sdr": Published(9.03, 0.05),
    },
    "noisy row of FullSubNet's table (Hao et al. 2021) and later papers",
    {"pesq_nb": RAW_PESQ.format("2.753")},
)

UNCHECKED = "published values are not checked"

_VOICEBANK = re.compile(r"p(232|257)_\d{3}")
_DNS = re.compile(r"clnsp\d+_.*_fileid_\d+")


def recognise(names: Sequence[str], folder: str) -> Recognised | None:
    """The public test set that all these files belong to; None if they are of none, or of several.

    Args:
        names: of the noisy files, without extension; folders before them do not matter.
        folder: where the noisy files are. The two DNS-2020 sets have the same file names: its path must say
            ``no_reverb`` or ``with_reverb``, as distributed.
    """
    files = {name.rsplit("/", 1)[-1] for name in names}
    if not files:
        return None
    if files and all(_VOICEBANK.fullmatch(file) for file in files):
        return Recognised(VOICEBANK_DEMAND, len(files))
    if files and all(_DNS.fullmatch(file) for file in files):
        both = (("no_reverb", DNS_NO_REVERB), ("with_reverb", DNS_WITH_REVERB))
        marked = [known for mark, known in both if mark in folder]
        if len(marked) == 1:
            return Recognised(marked[0], len(files))
    return None


def undecided(names: Sequence[str], folder: str) -> str:
    """Why files that look like a public test set were not recognised as one; empty if they do not look like one."""
    files = {name.rsplit("/", 1)[-1] for name in names}
    for pattern, name in ((_VOICEBANK, VOICEBANK_DEMAND.name), (_DNS, "a DNS-2020 synthetic test set")):
        alike = sum(bool(pattern.fullmatch(file)) for file in files)
        if alike and alike == len(files):
            if recognise(names, folder):
                return ""
            return (
                f"these look like {name}, but their folder does not say which (no_reverb or with_reverb): {UNCHECKED}"
            )
        if alike > len(files) / 2:
            return f"{alike} of {len(files)} files look like {name}, the others do not: {UNCHECKED}"
    return ""


def compare_noisy(recognised: Recognised, means: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Checks the noisy input's means against the published ones.

    Args:
        recognised: the set.
        means: metric to mean over all files.

    Returns:
        What to tell (sentences), and what to warn of loudly: every value that is further off than its tolerance. A
        part of a set is told, not checked.
    """
    known = recognised.known
    if not recognised.whole:
        return [f"{recognised.files} of the {known.files} files of the {known.name}: published values do not apply"], []
    checked = {metric: means[metric] for metric in known.noisy if not math.isnan(means.get(metric, math.nan))}
    if not checked:
        return [f"{known.name}: none of the metrics asked for has a published value ({', '.join(known.noisy)})"], []
    told = [f"{known.name}: {metric} is not compared, {why}" for metric, why in known.unlike.items() if metric in means]
    warned = []
    for metric, value in checked.items():
        published, tolerance = known.noisy[metric]
        text = f"{metric} of the noisy input is {value:.4g}, published {published:.4g} ({known.source})"
        if abs(value - published) <= tolerance:
            told.append(f"{known.name}: {text}")
        else:
            warned.append(
                f"{known.name}: {text}. These are not the files, or not the metric, that papers report: do not put "
                "numbers from here beside theirs"
            )
    return told, warned
