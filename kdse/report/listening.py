"""The listening part of a report: which files, and their audio, made again and checked against the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from kdse.errors import UserError
from kdse.evaluation.held_out import HeldOut
from kdse.evaluation.options import held_out_of
from kdse.evaluation.systems import System, folder_system, model_system, unprocessed
from kdse.metrics.registry import METRICS, score
from kdse.metrics.table import NOISY, Row
from kdse.report.collect import ScoredSet
from kdse.report.contents import ListeningFile
from kdse.run.folder import last_checkpoint

#: Audio made again may score this much of a metric's shown unit differently: other kernels, other threads. Our choice.
TOLERANCE = 0.05
#: Metrics that check it, the first that was scored.
QUICK = ("si_sdr", "seg_snr", "lsd", "stoi", "estoi", "sdr", "pesq_wb", "pesq_nb")


def choose(rows: Sequence[Row], systems: Sequence[str], metric: str, count: int) -> list[tuple[str, str]]:
    """The (group, name) of files worth hearing: half of them the worst, the others evenly over the rest.

    Worst is the least improvement of the metric over the noisy input, the mean over ``systems``. Files without a score
    come first: a failure is worse than any value.
    """
    improvements: dict[tuple[str, str], list[float]] = {}
    noisy = {(row.group, row.name): row.values.get(metric, math.nan) for row in rows if row.system == NOISY}
    sign = 1 if METRICS[metric].higher_is_better else -1
    for row in rows:
        if row.system in systems:
            key = (row.group, row.name)
            gain = sign * (row.values.get(metric, math.nan) - noisy.get(key, math.nan))
            improvements.setdefault(key, []).append(-math.inf if math.isnan(gain) else gain)
    if not improvements:  # there is nothing but the noisy input
        improvements = {key: [sign * value] for key, value in noisy.items()}
    ranked = sorted(improvements, key=lambda key: (math.fsum(improvements[key]) / len(improvements[key]), key))
    if count >= len(ranked):
        return ranked
    worst, rest = ranked[: (count + 1) // 2], ranked[(count + 1) // 2 :]
    others = count - len(worst)
    return worst + [rest[round((i + 0.5) * len(rest) / others - 0.5)] for i in range(others)]


def systems_of(
    scored: ScoredSet, runs: Mapping[str, Path], trust_code: bool = False
) -> tuple[dict[str, System], dict[str, str]]:
    """The systems of an evaluation, built again, and label to reason of those that cannot be.

    A checkpoint that is no longer where it was is looked for in the run of its label; another one's weights than those
    that were scored are refused.
    """
    rate = int(scored.record["settings"].get("sample_rate_hz", 0))
    systems: dict[str, System] = {}
    gone: dict[str, str] = {}
    for label, about in scored.record["systems"].items():
        try:
            if label == NOISY:
                systems[label] = unprocessed()
            elif about.get("kind") == "enhanced folder":
                folder = Path(about.get("folder", ""))
                systems[label] = folder_system(folder, rate, sorted({row.name for row in scored.rows}))
            else:
                path = Path(about.get("path", ""))
                if not path.is_file():
                    if label not in runs or not last_checkpoint(runs[label]).is_file():
                        raise UserError(f"its checkpoint {path} is gone")
                    path = last_checkpoint(runs[label])
                system = model_system(path, rate, "cpu", trust_code, cost=False)
                if about.get("weights_sha256", system.about["weights_sha256"]) != system.about["weights_sha256"]:
                    raise UserError(f"{path} has other weights than were scored; evaluate again")
                systems[label] = system
        except UserError as error:
            gone[label] = str(error)
    return systems, gone


def listening_files(
    scored: ScoredSet, chosen: Sequence[tuple[str, str]], systems: Mapping[str, System], trust_code: bool = False
) -> tuple[list[ListeningFile], dict[str, str]]:
    """The chosen files of a set with the audio and scores of every system; and label to reason of systems left out.

    The audio is made again, and scored again by one quick metric: what is heard is what the table counts. A system
    whose audio is not is left out of all files.

    Args:
        scored: the evaluation.
        chosen: (group, name) of the files in their order, groups as in ``scored.rows``.
        systems: from `systems_of`.
        trust_code: let the record name data modules that kdse does not ship.

    Raises:
        UserError: if the test set is not what it was.
    """
    rows = {(row.group, row.name, row.system): row for row in scored.rows}
    found: dict[tuple[str, str], ListeningFile] = {}
    changed: dict[str, str] = {}
    for item in held_out(scored, trust_code):
        key = (f"{scored.name} {item.group}".strip(), item.name)
        if key not in chosen:
            continue
        given = {NOISY: _numpy(item.noisy), "clean": _numpy(item.clean)}
        file = ListeningFile(item.name, key[0], item.snr_db, waves=given, scores={})
        for label, system in systems.items():
            row = rows.get((*key, label))
            if row is None or label in changed:
                continue
            file.scores[label] = dict(row.values)
            try:
                wave = _numpy(system.enhance(item))
            except ValueError:
                continue  # (its failure is in the table)
            if difference := _difference(wave, file.waves["clean"], row, scored):
                if label == NOISY:
                    raise UserError(f"--scores {scored.folder}: its test items have changed since ({difference})")
                changed[label] = f"{difference}; evaluate again"
            file.waves[label] = wave
        found[key] = file
    for key in chosen:
        if key not in found:
            raise UserError(f"--scores {scored.folder}: {key[1]} is no longer in its test set; evaluate again")
        for label in changed:
            found[key].waves.pop(label, None)
    return [found[key] for key in chosen], changed


def held_out(scored: ScoredSet, trust_code: bool = False) -> HeldOut:
    """The test set of an evaluation.

    Raises:
        UserError: if the evaluation does not say what its items were, or they are gone.
    """
    record = scored.record.get("items")
    if record is None:
        raise UserError(f"--scores {scored.folder}: was written by an older kdse, which did not note its test items")
    return held_out_of(record, trust_code)


def _difference(wave: np.ndarray, clean: np.ndarray, row: Row, scored: ScoredSet) -> str:
    """How audio that was made again differs from what was scored; empty if it does not, or no metric can tell."""
    metric = next((name for name in QUICK if name in scored.metrics), "")
    was = row.values.get(metric, math.nan)
    if math.isnan(was):
        return ""
    now = score(clean, wave, int(scored.record["settings"]["sample_rate_hz"]), [metric]).values[metric]
    if abs(now - was) * METRICS[metric].factor <= TOLERANCE:
        return ""
    return f"{row.system} now scores {now:.3f} {metric} on {row.name}, not {was:.3f}"


def _numpy(wave: Tensor) -> np.ndarray:
    return np.asarray(wave, dtype=np.float32)
