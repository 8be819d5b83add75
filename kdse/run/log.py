"""The training log of a run folder: logged values by optimizer step, over all starts of the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def training_log(run: str | Path) -> pd.DataFrame:
    """The CSV log of a run folder, one row a logged step; starts of a resumed run are joined, the later one wins.

    A run too short to have logged anything gives an empty table.
    """
    import pandas as pd

    starts = sorted(Path(run).glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    starts = [
        path for path in [Path(run) / "csv" / "metrics.csv", *starts] if path.is_file() and path.stat().st_size > 1
    ]
    if not starts:
        return pd.DataFrame({"step": []})
    joined = pd.concat([pd.read_csv(path) for path in starts])
    return joined.groupby("step", as_index=False).last()
