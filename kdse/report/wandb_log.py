"""A whole report as one Weights & Biases run (`log_report`), and what starting any run takes besides `wandb.init`."""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdse.errors import UserError, first_line
from kdse.internals.wandb import earlier_starts, start_folder, without_system_metrics
from kdse.report.contents import Figure, ListeningFile, Report
from kdse.report.page.audio import int16
from kdse.report.page.listening import signals_of
from kdse.report.page.spectrogram import picture
from kdse.report.tables.table import Table
from kdse.report.tables.writers import fields

if TYPE_CHECKING:
    import wandb

#: Distance between the first internal steps of two offline starts of one run; more than any start has rows.
STRIDE = 1_000_000


def log_report(report: Report, folder: Path, mode: Literal["online", "offline"], project: str, name: str) -> str:
    """Logs a report to W&B, after it was written to ``folder``; returns the run's address.

    The run's id follows from the project and the folder's path, so a report that is built again updates its run.
    Offline, each building leaves one more folder of that run in ``folder/wandb`` (WANDB_DIR, where that is set), which
    is returned with the `wandb sync` command that sends it. ``mode`` wins over WANDB_MODE; WANDB_ENTITY and the like
    count. A W&B run that is open in this process is left alone.

    Raises:
        UserError: if the package wandb is missing, or W&B cannot be reached or refuses; the folder stays as it is.
    """
    if mode not in ("online", "offline"):
        raise UserError(f"--wandb {mode}: use online or offline")
    check_installed(f"--wandb {mode}")
    import wandb

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
            about = {
                "title": report.title,
                "notes": list(report.notes),
                "metrics": list(report.metrics),
                "sample_rate_hz": report.sample_rate_hz,
                "facts": {label.replace(".", " "): fact for label, fact in report.facts.items()},  # keys split at "."
                "tables": {table.key: {"title": table.title, "caption": table.caption} for table in report.tables},
            }
            run.config.update({"report": about}, allow_val_change=True)
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


def image_of(figure: Figure, scratch: Path) -> wandb.Image:
    """The picture as it is, byte for byte, with its description below it; ``scratch`` must live until it is logged."""
    return _image(figure.png, f"{figure.title}. {figure.alt}", scratch)


def table_of(columns: list[str], rows: list[list[Any]]) -> wandb.Table:
    """A `wandb.Table`; W&B wants one type a column, so a column of words and numbers becomes words.

    What is not finite becomes empty: W&B's files are JSON.
    """
    import wandb

    cells = [[None if isinstance(v, float) and not math.isfinite(v) else v for v in row] for row in rows]
    for column in range(len(columns)):
        values = [row[column] for row in cells]
        if any(isinstance(v, str) for v in values) and any(isinstance(v, (int, float)) for v in values):
            for row in cells:
                row[column] = f"{row[column]:g}" if isinstance(row[column], (int, float)) else row[column]
    return wandb.Table(columns=list(columns), data=cells)


# --- starting a run ---


def check_installed(flag: str) -> None:
    """Imports wandb, or says what to do.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise UserError(
            f"{flag}: the package wandb is not installed; pip install wandb, or leave the flag out"
        ) from None


@contextmanager
def plain_errors(mode: str) -> Iterator[None]:
    """Turns W&B's own errors into one line with the way out."""
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        raise UserError(
            f"--wandb {mode}: Weights & Biases cannot be used ({first_line(error).rstrip('.')}); run `wandb login`, or "
            "use --wandb offline and send the run later with `wandb sync`"
        ) from None


def after_earlier_starts(run: wandb.Run) -> None:
    """Moves an offline start behind earlier ones of the same run.

    W&B numbers rows from 0 in every offline start, and `wandb sync` joins starts of one run by these numbers, so they
    must differ. Online the server does this.
    """
    if run.offline and (earlier := earlier_starts(run)):
        run.log({}, step=STRIDE * earlier)


@contextmanager
def staged(run: wandb.Run) -> Iterator[None]:
    """Keeps the files of tables inside the folder of an offline run, where W&B would put them in the user's home.

    `wandb sync` reads them from there. WANDB_DATA_DIR wins.
    """
    if not run.offline or "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(start_folder(run) / "data")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


# --- a report ---


def _content(report: Report, scratch: Path) -> dict[str, Any]:
    content: dict[str, Any] = {f"tables/{table.key}": _table(table) for table in report.tables}
    content |= {f"figures/{figure.key}": image_of(figure, scratch) for figure in report.figures}
    if report.listening:
        columns = ["set", "file", "input_snr_db", "system", "audio", "spectrogram", *report.metrics]
        rows = [row for file in report.listening for row in _listening_rows(file, report, scratch)]
        content["listening"] = table_of([*columns, "gain_db", "trouble"], rows)
    return content


def _table(table: Table) -> wandb.Table:
    """The `fields` of a table, and under a column's title the text for people where it says more than the value."""
    columns = fields(table)
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        if any(cell.text != str(cell.value) and (cell.text or cell.value is not None) for cell in cells):
            title = column.title if column.title not in columns else f"{column.title} (shown)"
            columns[title] = [cell.text for cell in cells]
    return table_of(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])


def _listening_rows(file: ListeningFile, report: Report, scratch: Path) -> Iterator[list[Any]]:
    """One row a system: audio, spectrogram and scores, with the gain that all systems of a file share."""
    import wandb

    signals = signals_of(file)
    for system, wave in file.waves.items():
        audio = image = None
        if system in signals.powers:
            caption = f"{file.name}: {system}"
            samples = int16(wave, signals.gain)
            audio = wandb.Audio(samples, sample_rate=report.sample_rate_hz, caption=caption)
            image = _image(picture(signals.powers[system], signals.reference), caption, scratch)
        scores = [file.scores.get(system, {}).get(metric) for metric in report.metrics]
        gain_db, trouble = 20 * math.log10(signals.gain), signals.troubles[system]
        yield [file.group, file.name, file.snr_db, system, audio, image, *scores, gain_db, trouble]


def _image(png: bytes, caption: str, scratch: Path) -> wandb.Image:
    import wandb

    path = scratch / f"{hashlib.sha256(png).hexdigest()[:16]}.png"
    path.write_bytes(png)
    return wandb.Image(str(path), caption=caption)
