"""The process in which fuzzed commands run: takes command lines on stdin, answers with what came of each.

A crash or a command that never ends takes this process, and not the tests, with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

#: Memory that a command may take beyond what the imports take, in bytes: a stated bound for files of kilobytes.
MEMORY = 2 * 2**30


def run(words: list[str], folder: str) -> dict[str, object]:
    """Runs one command in a folder; its exit code and what it wrote on stderr. An exception is code None."""
    from kdse.cli import main

    os.chdir(folder)
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO())
    out, err, started = io.StringIO(), io.StringIO(), time.monotonic()
    code: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except Started:
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            traceback.print_exc()
    sys.stdin = stdin
    return {"code": code, "err": err.getvalue(), "seconds": time.monotonic() - started}


class Started(BaseException):
    """A fit that would begin to train: its config was taken."""


def main() -> None:
    from kdse.training.cli import KdseCLI

    def started(self: KdseCLI) -> None:
        raise Started

    for name in ("before_fit", "before_validate", "before_test", "before_predict"):
        setattr(KdseCLI, name, started)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # (what C code prints is no answer)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
