"""`build_report`: everything a report says, from runs and evaluations."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import kdse
from kdse.errors import UserError
from kdse.evaluation.costs import training_cost
from kdse.metrics.registry import METRICS
from kdse.metrics.table import NOISY, Row
from kdse.metrics.uncertainty import Interval
from kdse.report.collect import ScoredSet, by_label, common_metrics, conditions, seed_groups, unfinished
from kdse.report.contents import Figure, ListeningFile, Report, file_name
from kdse.report.figures.by_snr import improvement_by_snr
from kdse.report.figures.curves import training_curves
from kdse.report.figures.pareto import Point, pareto
from kdse.report.figures.similarity import similarity as similarity_figure
from kdse.report.listening import choose, held_out, listening_files, systems_of
from kdse.report.similarity import similarity_of_run
from kdse.report.tables.costs import cost_table, failure_table
from kdse.report.tables.scores import difference_table, score_cells, score_table
from kdse.report.tables.seeds import seed_table
from kdse.report.tables.table import Table
from kdse.run.folder import config_of, last_checkpoint, teacher_of

#: Most systems in one figure by SNR: more cannot be told apart.
MANY = 8


@dataclass(frozen=True)
class Options:
    """What a report shows.

    title: of the page. reference: system that the others are compared with; empty chooses one. seeds: groups of runs
    that differ in their seed, as ``NAME=LABEL,LABEL``, besides those that are found. listen: files to listen to.
    files: their names, instead of a choice. listen_by: metric that finds the worst files; empty takes the first.
    similarity_items: test items on which teacher and students are compared block by block; 0 leaves it out.
    trust_code: let checkpoints name classes that kdse does not ship. command: what the reader can type to get this.
    """

    title: str = "kdse report"
    reference: str = ""
    seeds: Sequence[str] = ()
    listen: int = 12
    files: Sequence[str] = ()
    listen_by: str = ""
    similarity_items: int = 16
    trust_code: bool = False
    command: str = ""


@dataclass
class _Builder:
    """What all parts of a report need; what is missing or wrong on the way is said in it, not hidden."""

    runs: Mapping[str, Path]
    sets: Sequence[ScoredSet]
    options: Options
    metrics: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    systems: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    reference: str = ""
    seeds: dict[str, dict[int | str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def build_report(
    runs: Mapping[str, Path],
    sets: Sequence[ScoredSet],
    options: Options,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """The report of some runs on some test sets.

    Args:
        runs: label to run folder, for curves, cost, seeds, similarity; scores are the sets', by label or checkpoint.
        sets: evaluations, with at least one metric in common, at one sample rate.
        options: what to show.
        say: told what is being done.

    Raises:
        ValueError: for sets that cannot be compared, and an option that names what there is not.
    """
    builder = _Builder(by_label(runs, sets), sets, options)
    _check(builder)
    _remarks(builder)
    chosen = _chosen(builder)
    say("tables")
    tables = _tables(builder)
    say("figures")
    figures = _figures(builder)
    if options.similarity_items:
        say("similarity of teacher and students")
        figures += _similarity(builder)
    listening: list[ListeningFile] = []
    if chosen:
        say("audio")
        listening = _listening(builder, chosen)
    return Report(
        title=options.title,
        notes=[*_about(builder), *builder.notes],
        warnings=builder.warnings,
        tables=tables,
        figures=figures,
        listening=listening,
        sample_rate_hz=int(sets[0].record["settings"]["sample_rate_hz"]),
        metrics=builder.metrics,
        facts=_facts(builder),
    )


def _check(b: _Builder) -> None:
    """Fills in what follows from runs, sets and options; a mistake in them is found before any work is done."""
    b.metrics = common_metrics(b.sets)
    b.warnings += conditions(b.sets, b.metrics)
    b.rows = [row for scored in b.sets for row in scored.rows]
    b.systems = list(dict.fromkeys(row.system for row in b.rows))
    b.teachers = teachers_of(b.runs, b.sets)
    b.reference = b.options.reference
    if not b.reference:
        b.reference, chosen = _reference(b)
        if not chosen and len(b.systems) > 2:
            b.notes.append(f"The others are compared with {b.reference}, the first of them: --reference chooses.")
    if b.reference not in b.systems:
        raise UserError(f"--reference {b.reference}: no such system; there are {', '.join(b.systems)}")
    if b.options.listen_by and b.options.listen_by not in b.metrics:
        raise UserError(f"--listen-by {b.options.listen_by}: was not scored; there are {', '.join(b.metrics)}")
    groups = seed_groups(b.runs, b.options.seeds)
    for name, group in groups.items():
        scored: dict[int | str, str] = {seed: label for seed, label in group.items() if label in b.systems}
        if scored:
            b.seeds[name] = scored


def _remarks(b: _Builder) -> None:
    """What a reader must know of runs and sets."""
    for scored in b.sets:
        b.warnings += scored.record.get("warnings", [])
        b.notes += [f"{text}." for text in scored.record.get("known_set", [])]
        dropped = [metric for metric in scored.metrics if metric not in b.metrics]
        if dropped:
            b.notes.append(f"{scored.name} also has {', '.join(dropped)}, which the other sets have not.")
        systems = list(dict.fromkeys(row.system for row in scored.rows))
        if set(systems) != set(b.systems):
            b.notes.append(f"On {scored.name} there are {', '.join(s for s in systems if s != NOISY)} only.")
        if b.reference not in systems:
            b.warnings.append(f"no differences on {scored.name}: {b.reference} was not scored on it")
    for label, run in b.runs.items():
        if state := unfinished(run):
            b.warnings.append(f"{label} is unfinished: {state}")
        if label not in b.systems:
            b.warnings.append(f"{label} ({run}) is not among the scored systems: it has no row in the tables")
        teacher = teacher_of(run)
        if teacher is not None and not teacher.is_file() and not b.teachers:
            b.warnings.append(f"the teacher of {label}, {teacher}, is not there: it is not in the tables")


def _tables(b: _Builder) -> list[Table]:
    tables = [score_table(b.rows, b.metrics, exclude_from_best=b.teachers)]
    if len(b.systems) > 2:
        tables.append(difference_table(b.rows, b.metrics, b.reference))
    if any(len(group) > 1 for group in b.seeds.values()):
        tables.append(seed_table(b.rows, b.metrics, b.seeds, exclude_from_best=b.teachers))
    costs = _costs(b)
    if costs:
        tables.append(cost_table(costs))
    failures = [
        (row.group, row.system, row.name, metric, why) for row in b.rows for metric, why in row.failures.items()
    ]
    return [*tables, failure_table(failures)] if failures else tables


def _costs(b: _Builder) -> dict[str, dict[str, Any]]:
    costs: dict[str, dict[str, Any]] = {}
    for scored in b.sets:
        for label, about in scored.record["systems"].items():
            if label not in costs and about.get("kind") in ("checkpoint", "onnx"):
                known = {"parameters": about.get("parameters"), **(about.get("cost") or {})}
                costs[label] = known | (training_cost(b.runs[label]) if label in b.runs else {})
    return costs


def _figures(b: _Builder) -> list[Figure]:
    everyone = list(dict.fromkeys([*b.systems, *b.runs]))
    more = {label for group in b.seeds.values() for label in list(group.values())[1:]}
    if more:
        b.notes.append("Figures show the first seed of each method only.")
    shown = [system for system in b.systems if system not in more]
    if len([system for system in shown if system != NOISY]) > MANY:
        shown = _few(b, shown)
        b.notes.append(
            f"The figures by SNR show {len(shown) - 1} of {len(b.systems) - 1} systems: the reference, teachers, and "
            f"the best in {METRICS[b.metrics[0]].title}."
        )
    figures = improvement_by_snr([row for row in b.rows if row.system in shown], b.metrics, everyone)
    if not figures:
        b.notes.append("No figure by SNR: no set has items of two known SNRs or more.")
    sizes = [figure for scored in b.sets for figure in _sizes(b, scored, everyone, more)]
    if not sizes:
        b.notes.append("No figure of quality against size: fewer than two systems differ in known size.")
    first = {label: run for label, run in b.runs.items() if label not in more}
    curves = training_curves(first, systems=everyone) if first else None
    if b.runs and curves is None:
        b.notes.append("No training curves: no run has two validations or more.")
    return [*figures, *sizes, *([curves] if curves is not None else [])]


def _sizes(b: _Builder, scored: ScoredSet, everyone: list[str], left_out: set[str]) -> list[Figure]:
    """Quality against parameters on every group of a set, in the first two metrics, with the table's own numbers."""
    costs = _costs(b)
    figures = []
    groups = list(dict.fromkeys(row.group for row in scored.rows))
    for group in groups:
        cells = score_cells([row for row in scored.rows if row.group == group], b.metrics[:2], b.teachers)
        whole = [found for found in cells if found.line.snr_db == "all" and found.line.system not in left_out]
        for metric in b.metrics[:2]:
            points = []
            for found in whole:
                cell = found.cells[metric]
                value, low, high = (float("nan") if v is None else float(v) for v in (cell.value, cell.low, cell.high))
                interval = Interval(value, low, high, found.line.items)
                points.append(Point(found.line.system, interval, costs.get(found.line.system, {})))
            figure = pareto(points, metric, "parameters", everyone)
            if figure is not None and (len(b.sets) > 1 or len(groups) > 1):
                name = group or "fixed SNRs"
                figure = replace(
                    figure,
                    key=file_name(f"{figure.key}_{name}"),
                    title=f"{figure.title}, {name}",
                    alt=f"{name}: {figure.alt}",
                )
            figures += [] if figure is None else [figure]
    return figures


def _few(b: _Builder, systems: list[str]) -> list[str]:
    """The reference, the teachers and the best in the first metric (mean over all files)."""
    metric = b.metrics[0]
    sign = 1 if METRICS[metric].higher_is_better else -1
    values: dict[str, list[float]] = {system: [] for system in systems}
    for row in b.rows:
        if row.system in values and metric not in row.failures:
            values[row.system].append(sign * row.values[metric])
    scored = [system for system in systems if system != NOISY and values[system]]
    ranked = sorted(scored, key=lambda system: -sum(values[system]) / len(values[system]))
    wanted = dict.fromkeys([b.reference, *b.teachers, *ranked])
    few = [NOISY, *[system for system in wanted if system != NOISY][:MANY]]
    return [system for system in systems if system in few]


def _similarity(b: _Builder) -> list[Figure]:
    """One figure for every run with a teacher, and for the reference run beside the first teacher."""
    more = {label for group in b.seeds.values() for label in list(group.values())[1:]}
    runs = {label: run for label, run in b.runs.items() if label not in more}
    own = {label: teacher for label, run in runs.items() if (teacher := teacher_of(run)) is not None}
    if not own:
        return []
    beside: dict[str, Path | None] = dict.fromkeys(own)  # None: the run's own, which is checked to be the same file
    if b.reference in b.runs and b.reference not in own:
        beside = {b.reference: next(iter(own.values())), **beside}
    try:
        batches = _batches(b.sets[0], b.options.similarity_items)
    except ValueError as error:
        b.warnings.append(f"no similarity of blocks: {error}")
        return []
    figures = []
    failed: dict[str, list[str]] = {}
    for label, teacher in beside.items():
        try:
            moments = similarity_of_run(b.runs[label], batches, b.options.trust_code, teacher)
        except ValueError as error:
            failed.setdefault(str(error).replace(str(b.runs[label]), "RUN"), []).append(label)
            continue
        figure = similarity_figure(moments, label)
        if figure is not None and teacher is not None:
            title = f"Similarity of {label} and a teacher that did not teach it, block by block"
            figure = replace(figure, title=title)
        figures += [] if figure is None else [figure]
    for reason, labels in failed.items():
        b.warnings.append(f"no similarity of blocks for {', '.join(labels)}: {reason}")
    if figures:
        name = b.sets[0].name or "the test set"
        b.notes.append(f"Similarity of blocks is linear CKA over frames of the first {len(batches)} items of {name}.")
    return figures


def _batches(scored: ScoredSet, items: int) -> list[torch.Tensor]:
    """Noisy audio of the first items, one a batch: their lengths may differ."""
    batches: list[torch.Tensor] = []
    for item in held_out(scored):
        batches.append(item.noisy[None])
        if len(batches) == items:
            break
    return batches


def _chosen(b: _Builder) -> list[tuple[str, str]]:
    """The (group, name) of files to hear."""
    keys = list(dict.fromkeys((row.group, row.name) for row in b.rows))
    if b.options.files:
        chosen = []
        for name in b.options.files:
            matching = [key for key in keys if name in (key[1], key[1].rsplit("/", 1)[-1])]
            if not matching:
                raise UserError(f"--files {name}: was not scored; names are in per_file.csv")
            chosen += matching
        return chosen
    judged = [system for system in b.systems if system != NOISY and system not in b.teachers]
    by = b.options.listen_by or b.metrics[0]
    chosen = choose(b.rows, judged, by, b.options.listen)
    if 0 < len(chosen) < len(keys):
        without = " (without the teacher)" if b.teachers and judged else ""
        b.notes.append(
            f"To hear: {len(chosen)} of {len(keys)} files. Half are those that the systems{without} improved least in "
            f"{METRICS[by].title}, the others lie evenly over the rest."
        )
    return chosen


def _listening(b: _Builder, chosen: list[tuple[str, str]]) -> list[ListeningFile]:
    files: list[ListeningFile] = []
    for scored in b.sets:
        groups = {row.group for row in scored.rows}
        own = [key for key in chosen if key[0] in groups]
        if not own:
            continue
        try:
            systems, gone = systems_of(scored, b.runs, b.options.trust_code)
            heard, changed = listening_files(scored, own, systems)
        except ValueError as error:
            b.warnings.append(f"no audio: {error}")
            continue
        files += heard
        b.warnings += [f"no audio of {label}: {why}" for label, why in {**gone, **changed}.items()]
    return files


def teachers_of(runs: Mapping[str, Path], sets: Sequence[ScoredSet]) -> list[str]:
    """Systems that are the teacher of a run, and any that is called so."""
    paths = {teacher.resolve() for run in runs.values() if (teacher := teacher_of(run)) is not None}
    known = {label for label, run in runs.items() if last_checkpoint(run).resolve() in paths}
    for scored in sets:
        for label, about in scored.record["systems"].items():
            if label == "teacher" or ("path" in about and Path(about["path"]).resolve() in paths):
                known.add(label)
    return sorted(known)


def _reference(b: _Builder) -> tuple[str, bool]:
    """A run that was not distilled and is no teacher: a supervised student. Else the first system, and False."""
    plain = [label for label, run in b.runs.items() if teacher_of(run) is None or not config_of(run).get("objectives")]
    for label in plain:
        if label in b.systems and label not in b.teachers:
            return label, True
    others = [label for label in b.systems if label != NOISY and label not in b.teachers]
    return next(iter([*others, *b.systems])), False


def _about(b: _Builder) -> list[str]:
    files = len({(row.group, row.name) for row in b.rows})
    count = len(b.systems) - (NOISY in b.systems)
    seeds = (
        "The table over seeds shows how much a seed moves a result."
        if any(len(group) > 1 for group in b.seeds.values())
        else "There is one seed of each run: another may move a result by as much as the differences shown."
    )
    sets = "one test set" if len(b.sets) == 1 else f"{len(b.sets)} test sets"
    return [
        f"{count} {'system' if count == 1 else 'systems'} and the noisy input on {files} files of {sets}.",
        "Intervals are over the choice of files, not over seeds, and take files for independent, which mixtures of one "
        f"speaker or noise are not quite. {seeds}",
    ]


def _facts(b: _Builder) -> dict[str, str]:
    facts = {"made by": b.options.command} if b.options.command else {}
    for scored in b.sets:
        settings = {key: value for key, value in scored.record["settings"].items() if value is not None}
        settings.pop("data", None)  # a whole config
        facts[scored.name or "test set"] = ", ".join(f"{key} {json.dumps(value)}" for key, value in settings.items())
    for metric in b.metrics:
        about = b.sets[0].record["metrics"][metric]
        shown = "shown in per cent" if METRICS[metric].factor == 100 else about["unit"]
        facts[METRICS[metric].title] = f"{about['variant']}; {shown}"
    for scored in b.sets:
        versions = ", ".join(f"{name} {version}" for name, version in scored.record.get("versions", {}).items())
        if versions and versions not in facts.values():
            facts["scored with" if "scored with" not in facts else f"{scored.name} scored with"] = versions
    facts["report"] = f"kdse {kdse.__version__}, Python {platform.python_version()}"
    return facts
