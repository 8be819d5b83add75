"""`kdse` under torchrun where the second process finds an older checkpoint than the first: a shared disk that lags."""

import os
import sys
from pathlib import Path

from kdse.cli import main
from kdse.models.checkpoint import PREVIOUS
from kdse.run import resume

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        resume.last_good = lambda folder, run: Path(folder) / PREVIOUS
    sys.exit(main(sys.argv[1:]))
