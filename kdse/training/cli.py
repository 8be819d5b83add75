"""`KdseCLI`: LightningCLI with objectives and schedule as named keys, a run folder, and safe checkpoints."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, instantiate_class
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kdse.data.position import ResumableData
from kdse.data.taught_set import TaughtSet
from kdse.distributed import SameStart, check_strategy, is_first, launched_by
from kdse.enhancer import Enhancer
from kdse.errors import ParserError, UserError, mistake_in, one_line
from kdse.internals.jsonargparse import options
from kdse.internals.lightning import FlagsWinCLI, stop_early_after_validations
from kdse.models.checkpoint import LAST
from kdse.objectives.base import Objective
from kdse.pretrained import located
from kdse.run.config_mistakes import Config
from kdse.run.folder import CHECKPOINTS, LOCK, holds_run, result
from kdse.run.identity import identity
from kdse.run.resume import check_free, check_longer, check_same_run, check_usable, hold, last_good
from kdse.schedule import Schedule
from kdse.training.checkpoint_files import BestCheckpoint, LastCheckpoint, SafeCheckpointIO, SwitchCheckpoint
from kdse.training.divergence import MAX_STEPS, SkipNonFinite
from kdse.training.examples import LogExamples
from kdse.training.first_write import FirstWrite, Waiting, WaitingCsv, WaitingTensorBoard, WaitingWandb
from kdse.training.log_scores import LogScores
from kdse.training.missed_validation import MissedValidation
from kdse.training.predictions import WritePredictions
from kdse.training.progress_lines import TrainingLines
from kdse.training.run_result import RunResult, recordings
from kdse.training.setting_checks import check_checkpoint, check_settings, nested, with_flag, without
from kdse.training.step_times import StepTimes
from kdse.training.stopping import StopOnSignal, StopSignals
from kdse.training.wandb_logger import RunLogger, last_step

log = logging.getLogger(__name__)

#: Top-level flags beside those of Lightning: name, type, default, help.
FLAGS: tuple[tuple[str, Any, Any, str], ...] = (
    ("objectives", dict[str, Objective], {},
     "Distillation objectives by name, e.g. {gram: {class_path: kdse.objectives.SimilarityPreserving}}."),
    ("schedule", Schedule | None, None, "Weights of the terms over optimizer steps."),
    ("run_dir", str, "runs/default", "Folder of this run: all it writes."),
    ("run_root", str | None, None,
     "Instead of --run_dir: the run folder is RUN_ROOT/<digest of the settings>-seed<seed>, its name also the W&B id, "
     "so that the same settings find the same run. Where a run is kept does not count."),
    ("resume", bool, False,
     "Go on from the run folder's last good checkpoint if there is one; a finished run is left as it is."),
    ("wandb", str, "off",
     "Weights & Biases: off, online or offline (no network). A resumed fit and the validate and test of a run folder "
     "go on with the run of its fit."),
    ("wandb_project", str | None, None,
     "Weights & Biases project; null is that of the run folder's fit, else WANDB_PROJECT, else kdse."),
    ("overwrite", bool, False,
     "Replace the run that the run folder holds. It stays as it is until the first batch has been trained; other files "
     "in the folder stay for good."),
    ("max_nonfinite_steps", int, MAX_STEPS,
     "Optimizer steps in a row that are skipped because the loss or a gradient is not finite, before the run stops "
     "with exit code 3; 0 stops at the first."),
    ("save_every_n_steps", int | None, None,
     "Also write checkpoints/last.ckpt every so many optimizer steps, not only after each epoch."),
    ("example_every_n_validations", int, 5,
     "Log audio and spectrograms of a few validation items every so many validations; 0 never."),
)  # fmt: skip


def teach_by_the_set(config: Any) -> None:
    """Makes what a taught set holds the teacher of a run, in the place of a checkpoint."""
    model, data = (getattr(config.get(part), "init_args", None) or Namespace() for part in ("model", "data"))
    named = isinstance(model.get("teacher"), str)  # (as a checkpoint, a public denoiser)
    if data.get("taught_set") and "teacher" in model and (named or not model.teacher):
        taught = TaughtSet(data.taught_set)
        if model.compression is not None:
            raise UserError(
                f"--model.compression {model.compression:g}: makes the student of the teacher's network, which is not "
                "loaded with --data.taught_set; give --model.student (and --model.compression null)"
            )
        for key in ("teacher", "teacher_checkpoint"):
            if model.get(key) is not None:
                log.info(f"--data.taught_set teaches; --model.{key} {model.get(key)} is not loaded")
        model.teacher_checkpoint = None
        arguments = {"sample_rate_hz": taught.about["sample_rate_hz"]}
        if taught.taps:
            arguments |= {"taps": taught.taps, "fixed_samples": taught.about["samples"]}
        model.teacher = Namespace(class_path="kdse.models.Recorded", init_args=Namespace(arguments))


class AlreadyFinished(Exception):
    """There is nothing left to train, which is no mistake."""


class Parser(LightningArgumentParser):
    """A parser that raises mistakes instead of printing its usage, and takes no beginnings of flags for them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserError(message) from ex


class KdseCLI(FlagsWinCLI):
    """fit, validate, test, predict. Every component is a key of the config and a dotted flag.

    Args:
        args: the command line.
        cleanup: gives back what `fit` holds (the run folder, signals) when it ends.

    Raises:
        AlreadyFinished: by ``--resume=true`` for a run that has ended.
    """

    def __init__(self, args: list[str], cleanup: ExitStack) -> None:
        self.cleanup = cleanup
        self.stop = StopSignals()
        self.identity = ""
        self.settings: dict[str, Any] = {}  # as plain values, before a run folder is chosen
        self.named_by_settings = False
        self.resume_from: Path | None = None
        self.first_write: FirstWrite | None = None  # of fit
        self.go_on = shlex.join(["kdse", *without(args, "--resume", "--overwrite", "--ckpt_path"), "--resume=true"])
        super().__init__(
            model_class=Enhancer,
            subclass_mode_model=True,
            datamodule_class=L.LightningDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=None,  # (`FirstWrite` does that)
            parser_class=Parser,
            args=args,
            parser_kwargs={"prog": "kdse", "description": "Distil speech-enhancement models."},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, kind, default, text in FLAGS:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
        defaults = {"log_every_n_steps": 10, "gradient_clip_val": 5.0, "use_distributed_sampler": False}
        parser.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line; what is wrong with it is said by `Config`, which names the flag or the file."""
        command, *words = args
        given = Config(options(self._parser(command)))
        given.read_arguments(words)
        try:
            super().parse_arguments(parser, args)
        except (ParserError, AttributeError, TypeError) as error:
            raise UserError(given.mistake(str(error))) from error
        if (wrong := given.wrong_null()) is not None:
            raise UserError(wrong)
        teach_by_the_set(self.config[command])
        self.settings = self._plain_settings()
        check_settings(self.settings)

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        for one, other in (("resume", "overwrite"), ("resume", "ckpt_path")):
            if config[one] and config[other]:
                raise UserError(f"--{one} and --{other}: give one of them")
        if config.overwrite and config.trainer.fast_dev_run:
            raise UserError("--trainer.fast_dev_run: a run is not replaced by a trial; leave out --overwrite")
        check_checkpoint(config.ckpt_path, for_fit=self.subcommand == "fit")
        if self.subcommand != "fit":
            self._refuse_fit_flags()
            return
        settings = self.settings
        self.identity = identity(settings)
        if config.run_root is not None:
            if config.seed_everything is False:
                raise UserError("--run_root: needs a seed to name the folder by; give --seed_everything a number")
            config.run_dir, config.run_root = str(Path(config.run_root) / self.identity), None
            self.named_by_settings = True
            self._say(f"run folder: {config.run_dir}")
        self._take_folder(config, settings)
        if config.resume:
            known = result(config.run_dir)
            if known is not None and known.get("identity") == self.identity:
                self._check_recordings(settings["data"], known.get("recordings"))
                self._say(f"{config.run_dir}: finished before at step {known['step']}; nothing to do")
                raise AlreadyFinished
            self.resume_from = last_good(Path(config.run_dir) / CHECKPOINTS, self.identity)
            self._say(f"resume: {self.resume_from or 'no checkpoint yet, a new run'}")
        self.stop.install()
        self.cleanup.callback(self.stop.restore)

    def _take_folder(self, config: Any, settings: dict[str, Any]) -> None:
        """Refuses a run folder that another run would be lost in, and settles what is written to it, and when."""
        folder = Path(config.run_dir)
        last = folder / CHECKPOINTS / LAST
        given = None if config.ckpt_path is None else Path(config.ckpt_path).resolve()
        if config.overwrite:  # (it may be the teacher, or the weights to begin with)
            for key, _, value in nested(settings):
                named = isinstance(value, str) and value and key not in ("run_dir", "run_root")
                if named and located(value).resolve().parent == last.resolve().parent:
                    raise UserError(f"--overwrite: would remove {value}, which --{key} names; give another --run_dir")
        if config.resume:
            check_same_run(folder, settings)
        check: Callable[[], None] = partial(check_free, folder)
        if config.resume or config.overwrite:
            check = lambda: None  # noqa: E731 (settled above)
        elif given == last.resolve():  # (from its own last checkpoint a run goes on and loses nothing)
            check = partial(check_longer, folder, settings)
        held = False

        def claim() -> None:
            if not held:
                hold(folder, self.cleanup)
                check()

        if is_first():
            check_usable(folder)
            check()
            if holds_run(folder) or (folder / LOCK).exists():  # (a new folder is made, and locked, when it is needed)
                hold(folder, self.cleanup)
                held = True
        stored = {**settings, "run_dir": str(folder), "run_root": None}
        # (it says what was trained, not how this start came to it; nor does it do that again)
        stored |= {"resume": False, "overwrite": False, "ckpt_path": None}
        self.first_write = FirstWrite(folder, stored, claim, config.overwrite)

    def instantiate_classes(self) -> None:
        """Builds model, data, callbacks and trainer; the parser wraps what their constructors refuse."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            mistake = mistake_in(error)
            if mistake is None:
                raise
            raise UserError(with_flag(mistake, self._plain_settings())) from error

    def _refuse_fit_flags(self) -> None:
        """Refuses the flags that find a checkpoint by themselves where Lightning would go on without one."""
        config = self.config[self.subcommand]
        flags = {"--resume=true": config.resume, "--overwrite=true": config.overwrite, "--run_root": config.run_root}
        for flag, given in flags.items():
            if given:
                raise UserError(
                    f"{flag}: is of kdse fit; for kdse {self.subcommand} give --run_dir RUN and --ckpt_path "
                    f"RUN/{CHECKPOINTS}/{LAST}"
                )

    def _check_recordings(self, data: dict[str, Any], trained_on: str | None) -> None:
        """Refuses a finished run of the same settings on other recordings (KDSE_CORPUS is no setting)."""
        present: str | None = None
        if trained_on is not None:
            with contextlib.suppress(ValueError):  # (not there any more: the run is finished all the same)
                present = recordings(instantiate_class((), {"init_args": {}, **data}))
        if present not in (None, trained_on):
            raise UserError(
                f"--resume: {self.config['fit'].run_dir} holds a run that was trained on other recordings (names or "
                "lengths differ); give its corpus, or another folder"
            )

    def _plain_settings(self) -> dict[str, Any]:
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        found: dict[str, Any] = settings[self.config.subcommand]
        return found

    def _given(self, key: str) -> Any:
        """A setting's value, or the object made from it."""
        return self.config_init[self.subcommand].get(key)

    @rank_zero_only
    def _say(self, text: str) -> None:
        print(text, flush=True)

    def after_instantiate_classes(self) -> None:
        """Settles what the trainer is called with, which the stored config does not say."""
        call = self.config_init[self.subcommand]
        call["weights_only"] = True
        if self.resume_from is not None:  # (not in the stored config: the file is what this start found)
            call["ckpt_path"] = str(self.resume_from)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run_dir = Path(self._given("run_dir"))
        config = self._given("trainer") or {}
        check_strategy(config.get("strategy"))
        if isinstance(self.datamodule, ResumableData):
            self.datamodule.same_data_only = self.resume_from is not None
        if config.get("default_root_dir") is None:
            kwargs["default_root_dir"] = str(run_dir)
        if config.get("logger") is None or config.get("logger") is True:
            kwargs["logger"] = self._loggers(run_dir) or False
        plugins = list(config.get("plugins") or [])
        kwargs["plugins"] = [*plugins, *launched_by(plugins), SafeCheckpointIO()]
        given = list(config.get("callbacks") or [])
        first = [] if self.first_write is None else [self.first_write]
        kwargs["callbacks"] = [*first, *given, *self._callbacks(run_dir, given)]
        try:  # (all objects are made; what remains are settings)
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise UserError(f"--trainer: {one_line(error)}") from error

    def _callbacks(self, run_dir: Path, given: list[Callback]) -> list[Callback]:
        objectives: dict[str, Objective] = self._given("objectives") or {}
        schedule: Schedule | None = self._given("schedule")
        callbacks: list[Callback] = []
        for callback in given:
            if isinstance(callback, EarlyStopping):
                stop_early_after_validations(callback)
        if self.subcommand == "fit":
            for name, objective in objectives.items():
                if type(objective) is Objective:
                    raise UserError(
                        f"--objectives.{name}: names no class; give --objectives.{name} kdse.objectives.CLASS"
                    )
            named = [objective.named(name) for name, objective in objectives.items()]
            callbacks += [*named, *([schedule] if schedule is not None else [])]
            every = self._given("example_every_n_validations")
            if every > 0:
                callbacks.append(LogExamples(every_n_validations=every))
            callbacks += [SameStart(), MissedValidation(), LogScores(run_dir)]
            callbacks.append(SkipNonFinite(run_dir, self._given("max_nonfinite_steps")))
            callbacks += [StepTimes(run_dir), RunResult(run_dir, self.identity, schedule)]
            folder = run_dir / CHECKPOINTS
            if schedule is not None and len(schedule.phases) > 1:
                callbacks.append(SwitchCheckpoint(folder, schedule))
            callbacks.append(BestCheckpoint(folder))
            callbacks.append(LastCheckpoint(folder, self._given("save_every_n_steps")))
            callbacks.append(StopOnSignal(folder, self.stop, self.go_on))
        elif self.subcommand in ("validate", "test") and self._given("wandb") != "off":
            callbacks += [LogExamples(), LogScores(run_dir)]
        elif self.subcommand == "predict":
            callbacks.append(WritePredictions(run_dir / "predictions"))
        trainer = self._given("trainer") or {}
        if trainer.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in given):
            interactive = sys.stdout.isatty() and sys.stderr.isatty()  # (the bar goes to one, our words to the other)
            callbacks.append(RichProgressBar() if interactive else TrainingLines())
        return callbacks

    def _loggers(self, run_dir: Path) -> list[Logger]:
        """CSV and TensorBoard for fit; W&B, if asked for, for all but predict."""
        fitting = self.subcommand == "fit"
        loggers: list[Logger] = []
        if self.first_write is not None:
            # a folder for every start and nothing held back: neither a resume nor a kill loses logged steps
            version = 0 if self.first_write.overwrite else None
            csv = WaitingCsv(save_dir=run_dir, name="csv", version=version, flush_logs_every_n_steps=1)
            board = WaitingTensorBoard(save_dir=run_dir, name="", version="tensorboard", default_hp_metric=False)
            loggers += [csv, board]
        mode = self._given("wandb")
        if mode not in ("off", "online", "offline"):
            raise UserError(f"--wandb {mode}: use off, online or offline")
        if mode != "off" and self.subcommand != "predict":
            checkpoint = self.resume_from or self._given("ckpt_path")
            loggers.append(
                (WaitingWandb if fitting else RunLogger)(
                    run_dir,
                    mode,
                    project=self._given("wandb_project"),
                    go_on=not fitting or checkpoint is not None,
                    at_step=None if fitting else last_step(checkpoint),
                    run_id=self.identity if self.named_by_settings else None,
                )
            )
        for logger in loggers:
            if self.first_write is not None and isinstance(logger, Waiting):
                logger.first_write = self.first_write
        return loggers
