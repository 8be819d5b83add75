"""What kdse uses of submitit beyond its public API. It was last checked with 1.5.4."""

from __future__ import annotations

from typing import Any

from kdse.internals.library import Library

SUBMITIT = Library("submitit", "1.5.4", "submitit>=1.5.4,<2")


def batch_script(executor: Any, jobs: int = 1) -> str:
    """The script that a `submitit.SlurmExecutor` would hand to sbatch for an array of so many jobs (1: no array)."""
    if jobs > 1:
        SUBMITIT.get(executor, "parameters")["map_count"] = jobs
    write = SUBMITIT.get(executor, "_make_submission_file_text")
    return str(write(SUBMITIT.get(executor, "_submitit_command_str"), uid=""))
