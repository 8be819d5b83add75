"""What a report is made from: run folders of `kdse fit` and score folders of `kdse evaluate`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdse.errors import UserError, shortened
from kdse.metrics.registry import METRICS
from kdse.metrics.table import NOISY, Row, read_rows
from kdse.run.folder import CONFIG, config_of, last_checkpoint, seed_of, state, steps_of
from kdse.run.identity import without_seed


class ScoredSet(NamedTuple):
    """What `kdse evaluate` wrote to a folder.

    name: of the test set in tables; empty if there is only one. rows: with the set's name in their group.
    record: summary.json.
    """

    name: str
    folder: Path
    rows: list[Row]
    metrics: tuple[str, ...]
    record: dict[str, Any]


def find_runs(texts: Sequence[str]) -> dict[str, Path]:
    """Label to run folder from ``label=folder`` or ``folder``; a folder that holds run folders stands for all of them.

    Raises:
        UserError: for a folder without a run, a run without a checkpoint, and a label given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        label, equals, where = text.partition("=")
        if not equals or Path(text).exists():
            label, where = "", text
        folder = Path(where)
        if not folder.is_dir():
            raise UserError(f"RUN {text}: no such folder")
        runs = [folder] if _is_run(folder) else sorted(path for path in folder.iterdir() if _is_run(path))
        if not runs:
            raise UserError(f"RUN {folder}: holds no run of kdse fit (config.yaml and checkpoints/last.ckpt)")
        if label and len(runs) > 1:
            raise UserError(f"RUN {text}: {folder} holds {len(runs)} runs, which cannot all be called {label!r}")
        for run in runs:
            name = label or Path(os.path.abspath(run)).name  # (a link's own name)
            if found.setdefault(name, run).resolve() != run.resolve():
                raise UserError(f"RUN {text}: two runs are called {name!r}; write LABEL={run}")
            if name == NOISY:
                raise UserError(
                    f"RUN {text}: a run cannot be called {NOISY!r}, the unprocessed input; write LABEL={run}"
                )
    return found


def without_checkpoint(texts: Sequence[str]) -> list[str]:
    """Runs in these folders that have not saved a checkpoint yet."""
    folders = [Path(text.partition("=")[2] or text) for text in texts]
    inside = [
        path for folder in folders if folder.is_dir() and not _is_run(folder) for path in sorted(folder.iterdir())
    ]
    return [str(path) for path in inside if (path / CONFIG).is_file() and not _is_run(path)]


def unfinished(run: Path) -> str:
    """How far a run is, if it has not ended; else empty."""
    if state(run) == "finished":
        return ""
    last = config_of(run).get("trainer", {}).get("max_steps")
    try:
        steps = steps_of(run)
    except UserError:  # (a damaged checkpoint, which is named elsewhere)
        return "its last checkpoint is damaged"
    return f"step {steps} of {last}" if isinstance(last, int) and steps is not None and 0 <= steps < last else ""


def read_scores(folders: Sequence[tuple[str, Path]]) -> list[ScoredSet]:
    """The evaluations in these folders (name, folder); names are needed to tell several apart.

    A set whose summary.json is damaged or another file has what per_file.csv says; one without either file is left
    out if there are others. A warning in a record says so.

    Raises:
        UserError: for folders without an evaluation, or sets that cannot be told apart.
    """
    sets: dict[str, ScoredSet] = {}
    lost: list[UserError] = []
    for given, folder in folders:
        if not folder.is_dir():
            raise UserError(f"--scores {folder}: no such folder")
        try:
            rows = read_rows(folder / "per_file.csv")
            if not rows or not (folder / "summary.json").exists():
                raise UserError(f"{folder / 'per_file.csv'}: no scores in it, or no summary.json beside it")
        except UserError as error:
            lost.append(UserError(f"--scores {folder}: holds no finished evaluation of kdse evaluate ({error})"))
            continue
        record = _record(folder / "summary.json", rows)
        name = given or (Path(os.path.abspath(folder)).name if len(folders) > 1 else "")
        if name in sets:
            raise UserError(f"--scores {folder}: two test sets are called {name!r}; write NAME={folder}")
        rows = [dataclasses.replace(row, group=f"{name} {row.group}".strip()) for row in rows]
        sets[name] = ScoredSet(name, folder, rows, tuple(record["metrics"]), record)
    if not sets:
        raise lost[0]
    next(iter(sets.values())).record["warnings"] += [f"{error}; it is left out" for error in lost]
    return list(sets.values())


def _record(path: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """What summary.json says, with ``warnings``; little more than the metrics of the rows if it is not to be used."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        fault = "" if _is_record(record, rows) else "it is not that of per_file.csv beside it"
    except (OSError, ValueError, RecursionError) as error:
        record, fault = {}, getattr(error, "strerror", None) or shortened(error)
    if not fault:
        return {**record, "warnings": [*record.get("warnings", [])]}
    known = [name for name in rows[0].values if name in METRICS]
    metrics = {name: {"unit": METRICS[name].unit, "variant": METRICS[name].variant} for name in known}
    warning = f"{path}: not readable ({fault}): no costs, audio and similarity; evaluate again"
    return {"settings": {}, "metrics": metrics, "systems": {}, "warnings": [warning]}


def _is_record(record: Any, rows: Sequence[Row]) -> bool:
    """Whether a summary.json has what a report reads, each of its type, for the metrics of these rows."""
    try:
        settings, metrics, systems = record["settings"], record["metrics"], record["systems"]
        words = [*record.get("warnings", []), *record.get("known_set", []), *record.get("versions", {}).values()]
        words += [about[key] for about in metrics.values() for key in ("unit", "variant")]
        words += [about.get(k, "") for about in systems.values() for k in ("kind", "path", "folder", "weights_sha256")]
        numbers = [value for about in systems.values() for value in (about.get("cost") or {}).values()]
        numbers += [about.get("parameters") for about in systems.values()]
        return (
            set(metrics) == set(rows[0].values)
            and type(settings["sample_rate_hz"]) is int
            and isinstance(record.get("items"), dict | None)
            and all(isinstance(word, str) for word in words)
            and all(isinstance(number, int | float | None) for number in numbers)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def by_label(runs: Mapping[str, Path], sets: Sequence[ScoredSet]) -> dict[str, Path]:
    """The runs under the labels that they were scored by: a run that was scored under another name takes that."""
    systems = [(label, about) for one in sets for label, about in one.record["systems"].items()]
    scored = {label for label, _ in systems}
    labels: dict[Path, str] = {}
    for label, about in systems:
        if "path" in about:
            labels.setdefault(Path(about["path"]).resolve(), label)
    found = {label: run for label, run in runs.items() if label in scored}
    for label, run in runs.items():
        if label not in scored:
            found.setdefault(labels.get(last_checkpoint(run).resolve(), label), run)
    return found


def conditions(sets: Sequence[ScoredSet], metrics: Sequence[str]) -> list[str]:
    """Checks that sets can stand in one table; returns what a reader must be warned of.

    Raises:
        UserError: if a metric is another variant in another set, or sample rates differ.
    """
    first = sets[0]
    was = {metric: first.record["metrics"][metric].get("variant") for metric in metrics}
    for other in sets[1:]:
        rates = [one.record["settings"].get("sample_rate_hz") for one in (first, other)]
        if None not in rates and rates[0] != rates[1]:
            raise UserError(
                f"--scores: {first.name} is at {rates[0]} Hz and {other.name} at {rates[1]} Hz; report apart"
            )
        for metric in metrics:
            theirs = other.record["metrics"][metric].get("variant")
            if was[metric] != theirs:
                raise UserError(
                    f"--scores: {metric} of {first.name} is {was[metric]!r} and of {other.name} {theirs!r}: not one "
                    "metric; evaluate one of them again"
                )
    return [
        f"{metric} was scored as {variant!r}, which is not what this kdse means by it; evaluate again"
        for metric, variant in was.items()
        if variant != METRICS[metric].variant
    ]


def common_metrics(sets: Sequence[ScoredSet]) -> tuple[str, ...]:
    """The metrics that all sets have, in the order of the first.

    Raises:
        UserError: if there are none.
    """
    metrics = tuple(m for m in sets[0].metrics if m in METRICS and all(m in other.metrics for other in sets))
    if not metrics:
        raise UserError("--scores: the test sets have no metric in common; evaluate them with the same --metrics")
    return metrics


def seed_groups(runs: Mapping[str, Path], given: Sequence[str] = ()) -> dict[str, dict[int, str]]:
    """Runs that differ in their seed only: name of the group to seed to label of the run.

    Found by their resolved configs (what does not change training, such as folders and loggers, is passed over), or
    given as ``NAME=LABEL,LABEL``: then it is the giver who says that they are alike.

    Raises:
        UserError: for a given group of unknown runs, or of runs of equal or unknown seeds.
    """
    groups: dict[str, dict[int, str]] = {}
    for text in given:
        name, _, labels = text.partition("=")
        members = [label for label in labels.split(",") if label]
        if not name or len(members) < 2:
            raise UserError(f"--seeds {text}: write NAME=LABEL,LABEL with two runs or more")
        seeds: dict[int, str] = {}
        for label in members:
            if label not in runs:
                raise UserError(f"--seeds {text}: there is no run {label!r}; there are {', '.join(runs)}")
            seed = seed_of(runs[label])
            if seed is None or seed in seeds:
                raise UserError(
                    f"--seeds {text}: {label} has {'no known seed' if seed is None else f'seed {seed} too'}"
                )
            seeds[seed] = label
        groups[name] = seeds
    taken = {label for seeds in groups.values() for label in seeds.values()}
    alike: dict[str, dict[int, str]] = {}
    for label, run in runs.items():
        seed = seed_of(run)
        if label not in taken and seed is not None:
            with contextlib.suppress(ValueError, TypeError):  # (a damaged config is like no other)
                alike.setdefault(without_seed(config_of(run)), {}).setdefault(seed, label)
    found = {members[min(members)]: members for members in alike.values() if len(members) > 1}
    return groups | found


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and last_checkpoint(folder).is_file()
