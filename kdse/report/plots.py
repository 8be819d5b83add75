"""Plots from finished runs: improvement by input SNR, and training curves with the switch marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def improvement_by_snr(summary_csv: str | Path, out_png: str | Path, metrics: tuple[str, ...] = ("si_sdr",)) -> Path:
    """One panel a metric: mean improvement over the noisy input against input SNR, one line a system.

    Args:
        summary_csv: what `kdse evaluate` wrote.
        out_png: where the picture goes.
        metrics: which metrics to draw.
    """
    import pandas as pd

    table = pd.read_csv(summary_csv)
    table = table[table["snr_db"].astype(str) != "all"]
    table["snr_db"] = table["snr_db"].astype(float)
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(metrics), figsize=(4.2 * len(metrics), 3.6), squeeze=False, layout="constrained")
    for axis, metric in zip(axes[0], metrics, strict=True):
        for system, rows in table[table["system"] != "noisy"].groupby("system", sort=False):
            rows = rows.sort_values("snr_db")
            axis.plot(rows["snr_db"], rows[f"{metric}_improvement"], marker="o", label=system)
        axis.axhline(0.0, color="grey", linewidth=0.8)
        axis.set_xticks(sorted(table["snr_db"].unique()))
        axis.set_xlabel("input SNR (dB)")
        axis.set_ylabel(f"{metric} improvement over noisy{' (dB)' if metric in ('si_sdr', 'sdr') else ''}")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    return _save(plt, figure, out_png)


def training_curves(
    runs: dict[str, str | Path], out_png: str | Path, metric: str = "val/si_sdr", switches: dict[str, int] | None = None
) -> Path:
    """A validation metric against optimizer steps, one line a run, with the switch of two-step runs marked.

    Args:
        runs: label to run folder.
        out_png: where the picture goes.
        metric: column of the CSV log.
        switches: label to the optimizer step at which the run's phase changes.
    """
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for label, folder in runs.items():
        log = training_log(folder)
        if metric not in log:
            continue
        rows = log[["step", metric]].dropna()
        (line,) = axis.plot(rows["step"] + 1, rows[metric], marker=".", label=label)
        if switches and label in switches:
            axis.axvline(switches[label], color=line.get_color(), linestyle="--", linewidth=1)
            axis.annotate("switch", (switches[label], axis.get_ylim()[0]), fontsize="x-small", rotation=90, va="bottom")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return _save(plt, figure, out_png)


def training_log(run: str | Path) -> pd.DataFrame:
    """The CSV log of a run folder, one row a logged step; starts of a resumed run are joined, the later one wins.

    A run too short to have logged anything gives an empty table.
    """
    import pandas as pd

    starts = sorted(Path(run).glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    if not starts:
        return pd.DataFrame({"step": []})
    joined = pd.concat([pd.read_csv(path) for path in starts])
    return joined.groupby("step", as_index=False).last()


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(plt: Any, figure: Any, out_png: str | Path) -> Path:
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)
    return out
