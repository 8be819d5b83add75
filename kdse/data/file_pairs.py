"""Pairs of noisy and clean files: found by relative names, equal but for a prefix or suffix, or DNS-2020 file ids."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdse.data.affixes import INPUT_WORDS, TARGET_WORDS, Affix, common_affix
from kdse.data.corpus.corpora import Corpus, check_listed, scan
from kdse.errors import UserError, some

#: Files of a pair may differ by this much (padding of a codec or resampler) and are cut to the shorter. Our choice.
LENGTH_TOLERANCE_SECONDS = 0.02
#: Mismatched pairs that a message names, of each kind.
LISTED = 20
log = logging.getLogger(__name__)
_CLEAN_ID = re.compile(r"clean_fileid_(\d+)$", re.IGNORECASE)
_FILE_ID = re.compile(r"(?:^|_)fileid_(\d+)$", re.IGNORECASE)
_SNR = re.compile(r"(?:^|_)snr(-?\d+(?:\.\d+)?)(?=_|$)", re.IGNORECASE)


class Pair(NamedTuple):
    """A noisy file and its clean reference: two paths, and what is known of them.

    name: relative path of the noisy file without its extension, POSIX style; unique in a set.
    samples: length of both at the rate the pairs were looked up for.
    snr_db: from the noisy file's name (``_snr15_``); NaN if it says nothing.
    sizes: of both files in bytes where a manifest lists them, which they must have when they are read.
    """

    name: str
    noisy: str
    clean: str
    samples: int
    snr_db: float
    sizes: tuple[int | None, int | None] = (None, None)

    def check(self) -> None:
        """Raises an AudioError if a file is not the one that its manifest describes."""
        for file, size in zip((self.noisy, self.clean), self.sizes, strict=True):
            if size is not None:
                check_listed(file, size, "the manifest of its folder")


def find_pairs(noisy: str | Path, clean: str | Path, sample_rate_hz: int, flags: tuple[str, str]) -> list[Pair]:
    """All pairs of two folders, sorted by name of the noisy file.

    If every clean file is called ``clean_fileid_<number>``, as in the DNS-2020 synthetic test set, a noisy file
    ``..._fileid_<number>`` belongs to it. Else files of equal relative path belong together; extensions may differ. If
    no two are equal, the names of one folder may differ from those of the other by a prefix and suffix, the same for
    all (see `kdse.data.affixes`), which is logged.

    Args:
        noisy, clean: the folders.
        sample_rate_hz: rate at which `Pair.samples` counts.
        flags: settings that the two folders came from, for error messages.

    Raises:
        ValueError: for a missing or empty folder, an unreadable file, files without a partner or with several, and
            pairs whose lengths differ by more than 0.02 s: all of them, the first 20 of a kind by name.
    """
    noisy_corpus, clean_corpus = (
        scan(folder, flag, files_only=True) for folder, flag in zip((noisy, clean), flags, strict=True)
    )
    by_id = all(_CLEAN_ID.search(stem(path)) for path in clean_corpus.paths)
    noisy_keys, clean_keys = _keys(noisy_corpus, flags[0], by_id), _keys(clean_corpus, flags[1], by_id)
    rule = "DNS file ids" if by_id else "equal relative names"
    if not by_id:
        noisy_keys, clean_keys = _without_affix(noisy_keys, clean_keys, noisy_corpus, clean_corpus, flags)
    wrong = []
    for keys, others, corpus, other in (
        (noisy_keys, clean_keys, noisy_corpus, clean_corpus),
        (clean_keys, noisy_keys, clean_corpus, noisy_corpus),
    ):
        lone = [corpus.paths[i] for key, i in keys.items() if key not in others]
        if lone:
            wrong.append(f"no partner in {other.root} for {some(lone, LISTED)} of {corpus.root} (matched by {rule})")
    pairs, unlike, empty = [], [], []
    noisy_files, clean_files = _files(noisy_corpus), _files(clean_corpus)
    for key, place in noisy_keys.items():
        if key not in clean_keys:
            continue
        noisy_file, clean_file = both = noisy_files[place], clean_files[clean_keys[key]]
        seconds = [file.frames / file.rate for file in both]
        if abs(seconds[0] - seconds[1]) > LENGTH_TOLERANCE_SECONDS:
            unlike.append(f"{noisy_file.path} lasts {seconds[0]:.3f} s and {clean_file.path} {seconds[1]:.3f} s")
        samples = min(file.frames * sample_rate_hz // file.rate for file in both)
        if samples == 0:
            empty.append(noisy_file.path)
        name, sizes = noisy_file.name, (noisy_file.size, clean_file.size)
        pairs.append(Pair(name, noisy_file.path, clean_file.path, samples, snr_in_name(name), sizes))
    if unlike:
        wrong.append(f"{some(unlike, LISTED)}: files of a pair may differ by {LENGTH_TOLERANCE_SECONDS} s at most")
    if empty:
        wrong.append(f"{some(empty, LISTED)}: holds no samples at {sample_rate_hz} Hz; remove the pair")
    if wrong:
        raise UserError(f"{', '.join(dict.fromkeys(flags))}: {'; '.join(wrong)}")
    return pairs


def _without_affix(
    noisy: dict[str, int], clean: dict[str, int], noisy_corpus: Corpus, clean_corpus: Corpus, flags: tuple[str, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """The two folders' names and places with the names of one as in the other, if an affix sets them apart."""
    for names, files, corpus, flag, words in (
        (noisy, clean, clean_corpus, flags[1], INPUT_WORDS),
        (clean, noisy, noisy_corpus, flags[0], TARGET_WORDS),
    ):
        affix = common_affix(list(names), files, f"{flag} {corpus.root}", words)
        if affix is not None:
            if affix != Affix():
                log.warning("%s %s: %s", flag, corpus.root, affix.told)
            names_of = {affix.of(name): name for name in names}
            renamed = {names_of.get(file, file): place for file, place in files.items()}
            return (noisy, renamed) if files is clean else (renamed, clean)
    return noisy, clean


class _File(NamedTuple):
    name: str
    path: str
    frames: int
    rate: int
    size: int | None


def _files(corpus: Corpus) -> list[_File]:
    """All files at once: one by one, a million of them in a manifest would take minutes."""
    names = [stem(path) for path in corpus.paths]
    paths = [os.path.join(corpus.root, path) for path in corpus.paths]
    sizes = [None] * len(corpus) if corpus.manifest is None else corpus.manifest.sizes.tolist()
    frames, rates = (np.asarray(column).tolist() for column in (corpus.frames, corpus.rates))
    return list(map(_File, names, paths, frames, rates, sizes))


def snr_in_name(name: str) -> float:
    """The SNR in dB that a file name states as ``_snr<number>_``, as the DNS sets do; NaN if it states none."""
    found = _SNR.search(name.rsplit("/", 1)[-1])
    return float(found[1]) if found else math.nan


def speaker(pair: Pair) -> str:
    """The speaker of a file called ``<speaker>_<utterance>`` (VoiceBank) or ``<speaker>-...`` (LibriSpeech)."""
    return re.split(r"[_-]", pair.name.rsplit("/", 1)[-1], maxsplit=1)[0]


def _keys(corpus: Corpus, flag: str, by_id: bool) -> dict[str, int]:
    keys = []
    for path in corpus.paths:
        found = _FILE_ID.search(stem(path)) if by_id else None
        if by_id and not found:
            raise UserError(f"{flag} {corpus.root}: {path} has no DNS file id (..._fileid_<number>)")
        keys.append(str(int(found[1])) if found else stem(path))
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        same = [path for path, key in zip(corpus.paths, keys, strict=True) if key == twice[0]]
        raise UserError(f"{flag} {corpus.root}: {' and '.join(same[:3])} cannot be told apart when matching pairs")
    return {key: i for i, key in enumerate(keys)}


def stem(path: str) -> str:
    """A relative path without its extension: the name of a recording."""
    return path.rsplit(".", 1)[0]
