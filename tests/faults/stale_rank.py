"""`kdse` under torchrun where the second process finds an older checkpoint than the first: a shared disk that lags."""

import os
import sys
from pathlib import Path

from kdse import run_resume
from kdse.checkpoint import PREVIOUS
from kdse.cli import main

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        run_resume.last_good = lambda folder, run: Path(folder) / PREVIOUS
    sys.exit(main(sys.argv[1:]))
