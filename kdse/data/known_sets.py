"""Public test sets, recognised by their file names, and what their noisy input is published to score."""

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


def _dns(reverb: str, pesq_wb: float, stoi: float, si_sdr: float, raw_pesq_nb: str) -> KnownSet:
    return KnownSet(
        f"DNS-2020 synthetic test set {reverb} reverb",
        150,
        {"pesq_wb": Published(pesq_wb, 0.01), "stoi": Published(stoi, 0.001), "si_sdr": Published(si_sdr, 0.05)},
        "noisy row of FullSubNet's table (Hao et al. 2021) and later papers",
        # of pypesq, with which those papers score; ours is P.862.1, mapped to MOS-LQO
        {"pesq_nb": f"the published {raw_pesq_nb} is a raw P.862 score, not the MOS-LQO of P.862.1 that is meant here"},
    )


DNS_NO_REVERB = _dns("without", 1.582, 0.9152, 9.07, "2.454")
DNS_WITH_REVERB = _dns("with", 1.822, 0.8662, 9.03, "2.753")

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
    if files and all(map(_VOICEBANK.fullmatch, files)):
        return Recognised(VOICEBANK_DEMAND, len(files))
    if files and all(map(_DNS.fullmatch, files)):
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
        if alike and alike == len(files) and not recognise(names, folder):
            why = "their folder does not say which (no_reverb or with_reverb)"
            return f"these look like {name}, but {why}: {UNCHECKED}"
        if len(files) / 2 < alike < len(files):
            return f"{alike} of {len(files)} files look like {name}, the others do not: {UNCHECKED}"
    return ""


def compare_noisy(recognised: Recognised, means: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Compares the noisy input's means (by metric, over all files) with the published ones.

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
        text = f"{known.name}: {metric} of the noisy input is {value:.4g}, published {published:.4g} ({known.source})"
        if abs(value - published) <= tolerance:
            told.append(text)
        else:
            warned.append(
                f"{text}. These are not the files, or not the metric, that papers report: do not put numbers from here "
                "beside theirs"
            )
    return told, warned
