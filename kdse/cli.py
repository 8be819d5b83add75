"""`kdse`: the LightningCLI (fit, validate, test, predict) and the tool commands, behind one entry point."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import kdse
from kdse.commands.parser import underscored
from kdse.errors import Diverged, UserError, did_you_mean, one_line, printable
from kdse.machine import threads
from kdse.machine.processes import DIVERGED, INTERRUPTED, safe_path, working_folder_last

#: Tool commands: name to (module with main(argv) -> exit code, one-line help).
TOOLS = {
    "teachers": ("kdse.commands.teachers", "list the public denoisers that kdse knows by name"),
    "taps": ("kdse.commands.taps", "list the distillation points of a model: path, layout, shape"),
    "profile": ("kdse.commands.profile", "parameters, MACs, latency and real-time factor of a model"),
    "evaluate": ("kdse.commands.evaluate", "score checkpoints and the noisy input on held-out data"),
    "compare": ("kdse.commands.compare", "train several configs on one base and score them in one table"),
    "report": ("kdse.commands.report", "tables, figures and a page to listen to, from finished runs"),
    "teach": ("kdse.commands.teach", "write down what teachers make of a data set, for training without them"),
    "export": ("kdse.commands.export", "write a student as an ONNX, TorchScript, torch.export or ExecuTorch file"),
    "enhance": ("kdse.commands.enhance", "denoise audio files and folders, a pipe or the microphone"),
    "benchmark": ("kdse.commands.benchmark", "per-hop latency, memory and bytes of students, beside RNNoise"),
    "web": ("kdse.commands.web", "build a static page that runs a student in the browser"),
    "sweep": ("kdse.commands.sweep", "run a W&B sweep file here, without an account, with any number of workers"),
    "submit": ("kdse.commands.submit", "send a fit or the workers of a sweep to a SLURM cluster"),
    "corpus": ("kdse.commands.corpus", "build the embedded corpus; index or pack a corpus of your own"),
}
LIGHTNING = {
    "fit": "train a model, with or without a teacher",
    "validate": "run the validation set",
    "test": "run the test set",
    "predict": "enhance a data module's test items into RUN_DIR/predictions",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A user's mistake is one line on stderr and exit code 2."""
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(_overview())
        return 0
    if command == "--version":
        print(kdse.__version__)
        return 0
    if command not in TOOLS and command not in LIGHTNING:
        near = did_you_mean(command, [*TOOLS, *LIGHTNING]) or "; `kdse --help` lists them"
        print(f"kdse: unknown command {command!r}{near}", file=sys.stderr)
        return 2
    trusting = command in LIGHTNING or "--trust-code" in [word.replace("_", "-") for word in arguments]
    about_threads = threads.choose()
    try:
        with safe_path(), working_folder_last() if trusting else contextlib.nullcontext():
            return _run(command, arguments, about_threads)
    except UserError as error:
        if os.environ.get("KDSE_TRACEBACK"):
            raise
        print(f"kdse {command}: {one_line(error)}", file=sys.stderr)
        return 2
    except Diverged as error:
        from kdse.internals.lightning import process_rank

        if process_rank() == 0:  # (all processes of a run end alike)
            print(f"kdse {command}: {error}", file=sys.stderr)
        return DIVERGED
    except BrokenPipeError:  # whoever read our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        more = "; --resume=true goes on from the last checkpoint, if there is one" if command == "fit" else ""
        print(f"kdse {command}: interrupted{more}", file=sys.stderr)
        return INTERRUPTED


def _run(command: str, arguments: list[str], about_threads: str) -> int:
    if command in TOOLS:
        _talk_plainly(logging.WARNING)
        return int(importlib.import_module(TOOLS[command][0]).main(arguments) or 0)
    return run_lightning([command, *map(underscored, arguments)], about_threads)


def run_lightning(arguments: list[str], about_threads: str = "") -> int:
    """Runs `kdse fit | validate | test | predict`; a fit says how many threads it has."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from kdse.internals.lean_imports import import_lightning

    import_lightning()
    from kdse.internals.lightning import process_rank, quiet

    _talk_plainly(logging.INFO if process_rank() == 0 else logging.WARNING)
    from kdse.training.cli import FLAGS, AlreadyFinished, KdseCLI

    if {"-h", "--help"} & set(arguments):
        from kdse.training import help

        print(help.text(arguments[0], LIGHTNING[arguments[0]], FLAGS))
        return 0
    arguments = ["--help" if word == "--help_all" else word for word in arguments]
    quiet()
    if about_threads and arguments[0] == "fit" and "--help" not in arguments:
        logging.getLogger("kdse.cli").info(about_threads)
    try:
        with contextlib.ExitStack() as cleanup, contextlib.suppress(AlreadyFinished):
            KdseCLI(arguments, cleanup)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning makes exit code 1 of it
            raise KeyboardInterrupt from None
        raise
    return 0


class _Lines(logging.Formatter):
    """Messages as lines, whatever the names of files in them hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))


def _talk_plainly(level: int) -> None:
    """kdse's own messages, from a level on, on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(message)s"))
    handler.set_name("kdse.cli")
    logger = logging.getLogger("kdse")
    for earlier in [known for known in logger.handlers if known.get_name() == handler.get_name()]:
        logger.removeHandler(earlier)  # of another command in this process: what was stderr then may be closed by now
    if not logger.handlers:
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def _overview() -> str:
    lines = ["usage: kdse COMMAND [options]      (kdse COMMAND --help explains one)", "", "training:"]
    lines += [f"  {name:<10} {text}" for name, text in LIGHTNING.items()]
    lines += ["", "tools:"]
    lines += [f"  {name:<10} {text}" for name, (_, text) in TOOLS.items()]
    lines += ["", f"start with:  kdse fit --config {shlex.quote(str(_quickstart()))}"]
    return "\n".join(lines)


def _quickstart() -> Path:
    """The config of the first run: by its short name in a clone, else inside the installed package."""
    inside, short = Path(__file__).with_name("quickstart.yaml"), Path("experiments", "quickstart.yaml")
    return short if short.is_file() and short.samefile(inside) else inside


if __name__ == "__main__":
    sys.exit(main())
