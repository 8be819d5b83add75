"""`build_report`: everything a report says, from runs and evaluations."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import kdse
from kdse.errors import UserError
from kdse.evaluation.costs import training_cost
from kdse.metrics.registry import METRICS
from kdse.metrics.table import NOISY
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
from kdse.run.folder import CONFIG, config_of, last_checkpoint, read_config, teacher_of
from kdse.run.log import validations

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


def build_report(
    runs: Mapping[str, Path], sets: Sequence[ScoredSet], options: Options, say: Callable[[str], None] = lambda _: None
) -> Report:
    """The report of some runs on some test sets.

    Args:
        runs: label to run folder, for curves, cost, seeds, similarity; scores are the sets', by label or checkpoint.
        sets: evaluations, with at least one metric in common, at one sample rate.
        options, say: what to show, and what is told the parts that are being made.

    Raises:
        UserError: for sets that cannot be compared, and an option that names what there is not.
    """
    builder = _Builder(runs, sets, options)
    builder.remark()
    chosen = builder.chosen()
    say("tables")
    tables = builder.tables()
    say("figures")
    figures = builder.figures()
    if options.similarity_items:
        say("similarity of teacher and students")
        figures += builder.similarity()
    listening: list[ListeningFile] = []
    if chosen:
        say("audio")
        listening = builder.listening(chosen)
    return Report(
        title=options.title,
        notes=[*builder.about(), *builder.notes],
        warnings=builder.warnings,
        tables=tables,
        figures=figures,
        listening=listening,
        sample_rate_hz=next(
            (int(rate) for one in sets if (rate := one.record["settings"].get("sample_rate_hz"))), 16000
        ),
        metrics=builder.metrics,
        facts=builder.facts(),
    )


class _Builder:
    """What all parts of a report need; what is missing or wrong on the way is said in notes and warnings, not hidden.

    A mistake in runs, sets or options is found here, before any work is done.
    """

    def __init__(self, runs: Mapping[str, Path], sets: Sequence[ScoredSet], options: Options) -> None:
        self.runs, self.sets, self.options = by_label(runs, sets), sets, options
        self.metrics = common_metrics(sets)
        self.notes: list[str] = []
        self.warnings = conditions(sets, self.metrics)
        self.rows = [row for one in sets for row in one.rows]
        self.systems = list(dict.fromkeys(row.system for row in self.rows))
        self.teachers = teachers_of(self.runs, sets)
        self.reference = options.reference or self._reference()
        if self.reference not in self.systems:
            raise UserError(f"--reference {self.reference}: no such system; there are {', '.join(self.systems)}")
        if options.listen_by and options.listen_by not in self.metrics:
            raise UserError(f"--listen-by {options.listen_by}: was not scored; there are {', '.join(self.metrics)}")
        self.seeds: dict[str, dict[int, str]] = {}
        self.later_seeds: set[str] = set()  # all but the first of each group
        for name, group in seed_groups(self.runs, options.seeds).items():
            if scored := {seed: label for seed, label in group.items() if label in self.systems}:
                self.seeds[name] = scored
                self.later_seeds |= {*list(scored.values())[1:]}
        self.costs: dict[str, dict[str, Any]] = {}
        for label, about in ((label, about) for one in sets for label, about in one.record["systems"].items()):
            if label not in self.costs and about.get("kind") in ("checkpoint", "onnx"):
                trained = training_cost(self.runs[label], self.warnings) if label in self.runs else {}
                self.costs[label] = {"parameters": about.get("parameters"), **(about.get("cost") or {}), **trained}

    def _reference(self) -> str:
        """A run that was not distilled and is no teacher: a supervised student. Else the first system."""
        students = [system for system in self.systems if system not in self.teachers]
        for label, run in self.runs.items():
            if label in students and (teacher_of(run) is None or not config_of(run).get("objectives")):
                return label
        first = next((system for system in students if system != NOISY), self.systems[0])
        if len(self.systems) > 2:
            self.notes.append(f"The others are compared with {first}, the first of them: --reference chooses.")
        return first

    def remark(self) -> None:
        """Says what a reader must know of runs and sets."""
        for scored in self.sets:
            self.warnings += scored.record.get("warnings", [])
            self.notes += [f"{text}." for text in scored.record.get("known_set", [])]
            if dropped := [metric for metric in scored.metrics if metric not in self.metrics]:
                self.notes.append(f"{scored.name} also has {', '.join(dropped)}, which the other sets have not.")
            systems = dict.fromkeys(row.system for row in scored.rows)
            if set(systems) != set(self.systems):
                self.notes.append(f"On {scored.name} there are {', '.join(s for s in systems if s != NOISY)} only.")
            if self.reference not in systems:
                self.warnings.append(f"no differences on {scored.name}: {self.reference} was not scored on it")
        for label, run in self.runs.items():
            try:
                damaged = ", ".join(read_config(run / CONFIG).keys() - config_of(run).keys())
                fault = f"{run / CONFIG}: damaged ({damaged})" if damaged else ""
            except UserError as error:
                fault = str(error)
            if fault:
                self.warnings.append(f"{fault}: what it says of {label} is not in the report")
            validations(run, self.warnings)
            if state := unfinished(run):
                self.warnings.append(f"{label} is unfinished: {state}")
            if label not in self.systems:
                self.warnings.append(f"{label} ({run}) is not among the scored systems: it has no row in the tables")
            teacher = teacher_of(run)
            if teacher is not None and not teacher.is_file() and not self.teachers:
                self.warnings.append(f"the teacher of {label}, {teacher}, is not there: it is not in the tables")

    def tables(self) -> list[Table]:
        tables = [score_table(self.rows, self.metrics, self.teachers)]
        if len(self.systems) > 2:
            tables.append(difference_table(self.rows, self.metrics, self.reference))
        if self.later_seeds:
            tables.append(seed_table(self.rows, self.metrics, self.seeds, self.teachers))
        if self.costs:
            tables.append(cost_table(self.costs))
        failures = [(r.group, r.system, r.name, metric, why) for r in self.rows for metric, why in r.failures.items()]
        return [*tables, failure_table(failures)] if failures else tables

    def figures(self) -> list[Figure]:
        everyone = list(dict.fromkeys([*self.systems, *self.runs]))
        if self.later_seeds:
            self.notes.append("Figures show the first seed of each method only.")
        shown = self._few([system for system in self.systems if system not in self.later_seeds])
        figures = improvement_by_snr([row for row in self.rows if row.system in shown], self.metrics, everyone)
        if not figures:
            self.notes.append("No figure by SNR: no set has items of two known SNRs or more.")
        sizes = self._sizes(everyone)
        if not sizes:
            self.notes.append("No figure of quality against size: fewer than two systems differ in known size.")
        first = {label: run for label, run in self.runs.items() if label not in self.later_seeds}
        curves = training_curves(first, systems=everyone)
        if self.runs and curves is None:
            self.notes.append("No training curves: no run has two validations or more.")
        return [*figures, *sizes, *([curves] if curves is not None else [])]

    def _few(self, systems: list[str]) -> list[str]:
        """The systems that the figures by SNR show: of many the reference, the teachers and the best."""
        if len({*systems} - {NOISY}) <= MANY:
            return systems
        metric = self.metrics[0]
        sign = 1 if METRICS[metric].higher_is_better else -1
        values: dict[str, list[float]] = {system: [] for system in systems}
        for row in self.rows:
            if row.system in values and metric not in row.failures:
                values[row.system].append(sign * row.values[metric])
        means = {system: sum(found) / len(found) for system, found in values.items() if found}
        ranked = sorted(means, key=lambda system: -means[system])
        wanted = dict.fromkeys([self.reference, *self.teachers, *ranked])
        few = [NOISY, *[system for system in wanted if system != NOISY][:MANY]]
        shown = [system for system in systems if system in few]
        self.notes.append(
            f"The figures by SNR show {len(shown) - 1} of {len(self.systems) - 1} systems: the reference, teachers, "
            f"and the best in {METRICS[metric].title}."
        )
        return shown

    def _sizes(self, everyone: list[str]) -> list[Figure]:
        """Quality against parameters on every group, in the first two metrics, with the table's own numbers."""
        figures = []
        groups = list(dict.fromkeys(row.group for row in self.rows))
        for group in groups:
            found = score_cells([r for r in self.rows if r.group == group], self.metrics[:2], self.teachers)
            whole = [s for s in found if s.line.snr_db == "all" and s.line.system not in self.later_seeds]
            for metric in self.metrics[:2]:
                points = []
                for line, _, cells in whole:
                    cell = cells[metric]
                    mean, low, high = (math.nan if v is None else float(v) for v in (cell.value, cell.low, cell.high))
                    interval = Interval(mean, low, high, line.items)
                    points.append(Point(line.system, interval, self.costs.get(line.system, {})))
                figure = pareto(points, metric, "parameters", everyone)
                if figure is not None and len(groups) > 1:
                    name = group or "fixed SNRs"
                    key, title, alt = f"{figure.key}_{name}", f"{figure.title}, {name}", f"{name}: {figure.alt}"
                    figure = replace(figure, key=file_name(key), title=title, alt=alt)
                figures += [] if figure is None else [figure]
        return figures

    def similarity(self) -> list[Figure]:
        """One figure for every run with a teacher, and for the reference run beside the first teacher."""
        taught = [label for label, run in self.runs.items() if label not in self.later_seeds and teacher_of(run)]
        if not taught:
            return []
        beside: dict[str, Path | None] = dict.fromkeys(taught)  # None: its own, which is checked to be the same file
        if self.reference in self.runs and self.reference not in taught:
            beside = {self.reference: teacher_of(self.runs[taught[0]]), **beside}
        scored, count = self.sets[0], self.options.similarity_items
        try:
            # one a batch: their lengths may differ
            batches = [item.noisy[None] for item in islice(held_out(scored, self.options.trust_code), count)]
        except UserError as error:
            self.warnings.append(f"no similarity of blocks: {error}")
            return []
        figures = []
        failed: dict[str, list[str]] = {}
        for label, teacher in beside.items():
            try:
                moments = similarity_of_run(self.runs[label], batches, self.options.trust_code, teacher)
            except UserError as error:
                failed.setdefault(str(error).replace(str(self.runs[label]), "RUN"), []).append(label)
                continue
            figure = similarity_figure(moments, label)
            if figure is not None and teacher is not None:
                title = f"Similarity of {label} and a teacher that did not teach it, block by block"
                figure = replace(figure, title=title)
            figures += [] if figure is None else [figure]
        for reason, labels in failed.items():
            self.warnings.append(f"no similarity of blocks for {', '.join(labels)}: {reason}")
        if figures:
            where = f"the first {len(batches)} items of {scored.name or 'the test set'}"
            self.notes.append(f"Similarity of blocks is linear CKA over frames of {where}.")
        return figures

    def chosen(self) -> list[tuple[str, str]]:
        """The (group, name) of files to hear."""
        keys = list(dict.fromkeys((row.group, row.name) for row in self.rows))
        if self.options.files:
            chosen = []
            for name in self.options.files:
                matching = [key for key in keys if name in (key[1], key[1].rsplit("/", 1)[-1])]
                if not matching:
                    raise UserError(f"--files {name}: was not scored; names are in per_file.csv")
                chosen += matching
            return chosen
        judged = [system for system in self.systems if system != NOISY and system not in self.teachers]
        by = self.options.listen_by or self.metrics[0]
        chosen = choose(self.rows, judged, by, self.options.listen)
        if 0 < len(chosen) < len(keys):
            without = " (without the teacher)" if self.teachers and judged else ""
            self.notes.append(
                f"To hear: {len(chosen)} of {len(keys)} files. Half are those that the systems{without} improved least "
                f"in {METRICS[by].title}, the others lie evenly over the rest."
            )
        return chosen

    def listening(self, chosen: list[tuple[str, str]]) -> list[ListeningFile]:
        """The chosen files with their audio."""
        files: list[ListeningFile] = []
        for scored in self.sets:
            own = [key for key in chosen if key[0] in {row.group for row in scored.rows}]
            if not own:
                continue
            try:
                systems, gone = systems_of(scored, self.runs, self.options.trust_code)
                heard, changed = listening_files(scored, own, systems, self.options.trust_code)
            except UserError as error:
                self.warnings.append(f"no audio: {error}")
                continue
            files += heard
            self.warnings += [f"no audio of {label}: {why}" for label, why in {**gone, **changed}.items()]
        return files

    def about(self) -> list[str]:
        """The first notes."""
        files = len({(row.group, row.name) for row in self.rows})
        count = len(self.systems) - (NOISY in self.systems)
        seeds = (
            "The table over seeds shows how much a seed moves a result."
            if self.later_seeds
            else "There is one seed of each run: another may move a result by as much as the differences shown."
        )
        sets = "one test set" if len(self.sets) == 1 else f"{len(self.sets)} test sets"
        return [
            f"{count} {'system' if count == 1 else 'systems'} and the noisy input on {files} files of {sets}.",
            "Intervals are over the choice of files, not over seeds, and take files for independent, which mixtures of "
            f"one speaker or noise are not quite. {seeds}",
        ]

    def facts(self) -> dict[str, str]:
        facts = {"made by": self.options.command} if self.options.command else {}
        for scored in self.sets:
            settings = {key: value for key, value in scored.record["settings"].items() if value is not None}
            settings.pop("data", None)  # a whole config
            facts[scored.name or "test set"] = ", ".join(f"{key} {json.dumps(v)}" for key, v in settings.items())
        for metric in self.metrics:
            about = self.sets[0].record["metrics"][metric]
            shown = "shown in per cent" if METRICS[metric].factor == 100 else about["unit"]
            facts[METRICS[metric].title] = f"{about['variant']}; {shown}"
        for scored in self.sets:
            versions = ", ".join(f"{name} {version}" for name, version in scored.record.get("versions", {}).items())
            if versions and versions not in facts.values():
                facts["scored with" if "scored with" not in facts else f"{scored.name} scored with"] = versions
        facts["report"] = f"kdse {kdse.__version__}, Python {platform.python_version()}"
        return facts


def teachers_of(runs: Mapping[str, Path], sets: Sequence[ScoredSet]) -> list[str]:
    """Systems that are the teacher of a run, and any that is called so."""
    paths = {teacher.resolve() for run in runs.values() if (teacher := teacher_of(run)) is not None}
    known = {label for label, run in runs.items() if last_checkpoint(run).resolve() in paths}
    for scored in sets:
        for label, about in scored.record["systems"].items():
            if label == "teacher" or ("path" in about and Path(about["path"]).resolve() in paths):
                known.add(label)
    return sorted(known)
