"""`kdse`: the LightningCLI (fit, validate, test, predict) and the tool commands, behind one entry point."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import kdse
from kdse.commands.parser import underscored
from kdse.errors import UserError, one_line
from kdse.machine import threads
from kdse.machine.packages import PackageError

#: Tool commands: name to (module with main(argv) -> exit code, one-line help).
TOOLS = {
    "taps": ("kdse.commands.taps", "list the distillation points of a model: path, layout, shape"),
    "profile": ("kdse.commands.profile", "parameters, MACs, latency and real-time factor of a model"),
    "evaluate": ("kdse.commands.evaluate", "score checkpoints and the noisy input on held-out data"),
    "compare": ("kdse.commands.compare", "train several configs on one base and score them in one table"),
    "report": ("kdse.commands.report", "tables, figures and a page to listen to, from finished runs"),
    "export": ("kdse.commands.export", "write a student as an ONNX, TorchScript, torch.export or ExecuTorch file"),
    "enhance": ("kdse.commands.enhance", "denoise wav or flac files and folders, a pipe or the microphone"),
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
        print(f"kdse: unknown command {command!r}; `kdse --help` lists them", file=sys.stderr)
        return 2
    about_threads = threads.choose()
    try:
        if command in TOOLS:
            module = importlib.import_module(TOOLS[command][0])
            return int(module.main(arguments) or 0)
        return run_lightning([command, *map(underscored, arguments)], about_threads)
    except UserError as error:
        if os.environ.get("KDSE_TRACEBACK"):
            raise
        print(f"kdse {command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        more = "; --resume=true goes on from the last checkpoint, if there is one" if command == "fit" else ""
        print(f"kdse {command}: interrupted{more}", file=sys.stderr)
        return 130


def run_lightning(arguments: list[str], about_threads: str = "") -> int:
    """Runs `kdse fit | validate | test | predict`; a fit says how many threads it has."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for text in (
        "does not have many workers",
        "LightningCLI's args parameter",
        "when logging on epoch level in distributed setting",  # (every process logs the same)
        "`LeafSpec` is deprecated",
        "isinstance.treespec, LeafSpec",
    ):
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    _talk_plainly()
    if about_threads and arguments[0] == "fit":
        logging.getLogger("kdse.cli").info(about_threads)
    from kdse.training.cli import AlreadyFinished, KdseCLI

    try:
        with contextlib.ExitStack() as cleanup, contextlib.suppress(AlreadyFinished):
            KdseCLI(arguments, cleanup)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning makes exit code 1 of it
            raise KeyboardInterrupt from None
        raise
    return 0


def _talk_plainly() -> None:
    """kdse's own messages on stderr, Lightning's without its advertisements."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.set_name("kdse.cli")
    logger = logging.getLogger("kdse")
    for earlier in [known for known in logger.handlers if known.get_name() == handler.get_name()]:
        logger.removeHandler(earlier)  # of another command in this process: what was stderr then may be closed by now
    if not logger.handlers:
        logger.addHandler(handler)
    from kdse.internals.lightning import process_rank

    logger.setLevel(logging.INFO if process_rank() == 0 else logging.WARNING)
    logger.propagate = False
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(text in record.getMessage() for text in ("Tip:", "Detected KeyboardInterrupt"))
    )


def _one_line(error: BaseException) -> str:
    """What to show of an error: of a package that cannot be imported, even if a later error replaced that."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PackageError):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    return one_line(error)


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
