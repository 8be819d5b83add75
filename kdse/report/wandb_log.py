"""`log_report`: a whole report as one Weights & Biases run, with the tables, pictures and audio of the HTML page."""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kdse.internals.wandb import start_folder, without_system_metrics
from kdse.metrics.table import NOISY
from kdse.report.contents import Figure, ListeningFile, Report
from kdse.report.page import spectrogram
from kdse.report.page.audio import shared_gain, trouble
from kdse.report.tables.table import Table
from kdse.report.tables.writers import fields
from kdse.report.wandb_run import after_earlier_starts, check_installed, plain_errors, staged, table_of

if TYPE_CHECKING:
    import wandb


def log_report(report: Report, folder: Path, mode: Literal["online", "offline"], project: str, name: str) -> str:
    """Logs a report to W&B, after it was written to disk; what is on disk stays whatever happens here.

    The run's id follows from the project and the folder's path, so a report that is built again updates its run.
    Offline, each building leaves one more folder of that run in ``folder/wandb`` (WANDB_DIR, where that is set), and
    `wandb sync` sends them to it. ``mode`` wins over WANDB_MODE; WANDB_ENTITY and the like count. A W&B run that is
    open in this process is left alone.

    Args:
        report: what to log.
        folder: where the report is.
        mode: "online" or "offline".
        project: W&B project.
        name: of the run, for people.

    Returns:
        The run's address, or the offline folder and the command that sends it.

    Raises:
        ValueError: if the package wandb is missing, or W&B cannot be reached or refuses.
    """
    if mode not in ("online", "offline"):
        raise ValueError(f"--wandb {mode}: use online or offline")
    check_installed(f"--wandb {mode}")
    import wandb

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with plain_errors(mode), tempfile.TemporaryDirectory() as scratch:
        run = wandb.init(
            project=project,
            name=name,
            id=report_id(project, folder),
            notes="\n\n".join([report.title, *report.notes]),
            job_type="report",
            mode=mode,
            dir=os.environ.get("WANDB_DIR") or str(folder),
            resume="allow",
            reinit="create_new",
            settings=without_system_metrics(silent=True, console="off"),
        )
        try:
            after_earlier_starts(run)
            with staged(run):
                run.log(_content(report, Path(scratch)))
            run.config.update(_settings(report), allow_val_change=True)
            run.summary["warnings"] = list(report.warnings)
            run.summary["warning_count"] = len(report.warnings)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()
    if mode == "online":
        return str(run.url)
    sent = start_folder(run)
    return f"{sent} (send it with: wandb sync {shlex.quote(str(sent))})"


def report_id(project: str, folder: Path) -> str:
    """The id of the W&B run of a report folder in a project: the same every time, on this machine."""
    return "report-" + hashlib.sha256(f"{project}\n{folder.resolve()}".encode()).hexdigest()[:12]


def _content(report: Report, scratch: Path) -> dict[str, Any]:
    content: dict[str, Any] = {f"tables/{table.key}": wandb_table(table) for table in report.tables}
    content |= {f"figures/{figure.key}": image_of(figure, scratch) for figure in report.figures}
    if report.listening:
        content["listening"] = _listening_table(report, scratch)
    return content


def _settings(report: Report) -> dict[str, Any]:
    tables = {table.key: {"title": table.title, "caption": table.caption} for table in report.tables}
    about = {
        "title": report.title,
        "notes": list(report.notes),
        "metrics": list(report.metrics),
        "sample_rate_hz": report.sample_rate_hz,
        "facts": {label.replace(".", " "): text for label, text in report.facts.items()},  # W&B splits keys at periods
        "tables": tables,
    }
    return {"report": about}


def wandb_table(table: Table) -> wandb.Table:
    """The `kdse.report.writers.fields` of a table, and the text for people under a column's title where it says more
    than the value.
    """
    columns = fields(table)
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        if any(cell.text != str(cell.value) and (cell.text or cell.value is not None) for cell in cells):
            columns[column.title if column.title not in columns else f"{column.title} (shown)"] = [
                c.text for c in cells
            ]
    return table_of(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])


def image_of(figure: Figure, scratch: Path) -> wandb.Image:
    """The picture as it is, byte for byte, with its description below it; ``scratch`` must live until it is logged."""
    import wandb

    path = scratch / f"{hashlib.sha256(figure.key.encode()).hexdigest()[:16]}.png"
    path.write_bytes(figure.png)
    return wandb.Image(str(path), caption=f"{figure.title}. {figure.alt}")


def _listening_table(report: Report, scratch: Path) -> wandb.Table:
    """One row a file and system: audio, spectrogram and scores, with the gain that all systems of a file share."""
    columns = ["set", "file", "input_snr_db", "system", "audio", "spectrogram", *report.metrics, "gain_db", "trouble"]
    rows = [row for file in report.listening for row in _listening_rows(file, report, scratch)]
    return table_of(columns, rows)


def _listening_rows(file: ListeningFile, report: Report, scratch: Path) -> Iterator[list[Any]]:
    import wandb

    troubles = {system: trouble(wave) for system, wave in file.waves.items()}
    good = {system: wave for system, wave in file.waves.items() if not troubles[system]}
    gain = shared_gain(good.values())
    powers = {system: spectrogram.power(wave) for system, wave in good.items()}
    noisy = float(powers[NOISY].max()) if NOISY in powers else 0.0
    top = noisy or max((float(power.max()) for power in powers.values()), default=0.0)
    for number, (system, why) in enumerate(troubles.items()):
        audio = image = None
        if not why:
            steps = np.rint(np.clip(good[system] * np.float64(gain), -1, 1 - 2**-15) * 2**15).astype(np.int16)
            caption = f"{file.name}: {system}"
            audio = wandb.Audio(steps, sample_rate=report.sample_rate_hz, caption=caption)
            name = hashlib.sha256(f"{file.group}\n{file.name}\n{number}".encode()).hexdigest()[:16]
            path = scratch / f"{name}.png"
            path.write_bytes(spectrogram.picture(powers[system], top))
            image = wandb.Image(str(path), caption=caption)
        scores = [file.scores.get(system, {}).get(metric) for metric in report.metrics]
        yield [file.group, file.name, file.snr_db, system, audio, image, *scores, 20 * math.log10(gain), why]
