"""Every mistake in flags and configs is one line that names the flag, or the file and key, and what would do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import kdse.training.cli
from kdse.cli import main
from kdse.run.config_mistakes import Config
from kdse.training.cli import KdseCLI

BASE = {
    "model": {"class_path": "kdse.Distiller", "init_args": {"teacher_checkpoint": "cruse-30k", "compression": 4}},
    "objectives": {"gram": {"class_path": "kdse.objectives.SimilarityPreserving", "init_args": {"over": ["time"]}}},
    "schedule": {"class_path": "kdse.schedule.TwoStep", "init_args": {"distil_fraction": 0.25}},
    "data": {"class_path": "kdse.data.Mixtures", "init_args": {"batch_size": 8}},
    "trainer": {"max_epochs": 4, "accelerator": "cpu"},
    "run_dir": "run",
}
#: Words of jsonargparse, Python and Lightning that help nobody.
JARGON = ("Union", "NoneType", "<class", "Parser key", "Traceback", "NestedArg", "Subtypes", "typehint", "Namespace(")
LONGEST = 300

#: Flags after a good config, and what the line must say.
FLAGS = {
    # unknown names
    "--model.compresion=4": "did you mean --model.compression?",
    "--model.init_args.compresion=4": "did you mean --model.compression?",
    "--trainer.max_stepsss=3": "did you mean --trainer.max_steps?",
    "--data.snr=3": "did you mean --data.snr_db?",
    "--objectives.gram.wieght=1": "did you mean --objectives.gram.weight?",
    "--schedule.gama=1": "did you mean --schedule.gamma?",
    "--max_steps=3": "did you mean --trainer.max_steps?",
    "--data.folder=x --data=kdse.data.NoisyFolder": "name a class before its settings",
    "--model.teacher_checkpoint=cruse-64k": "--model.teacher_checkpoint: cruse-64k: neither",
    "--ckpt_path=.": "--ckpt_path .: is a folder",
    "--rundir=x": "did you mean --run_dir?",
    "--run-dirr=x": "did you mean --run_dir?",
    "--modle=kdse.Enhancer": "did you mean --model?",
    "--objectve.gram=kdse.objectives.Hint": "did you mean --objectives?",
    "--model.optimizer=torch.optim.Adam --model.optimizer.lrr=1": "did you mean --model.optimizer.lr?",
    "--model.optimizer.lrr=1": "--model.optimizer.lrr: no class is named that has it",
    "--model.loss=kdse.losses.PhaseSensitive --model.loss.foo=1": "--model.loss.foo: kdse.losses.PhaseSensitive has no",
    "--trainer.callbacks.patiense=3": "--trainer.callbacks.patiense",
    "--model.student=kdse.models.Cruse --model.student.chanels=[1]": "did you mean --model.student.channels?",
    "extra": "extra: unknown",
    "-x": "-x: unknown",
    # values of another type
    "--trainer.precision=17": "--trainer.precision 17: give 64, 32, 16",
    "--trainer.max_steps=abc": "--trainer.max_steps abc: give a whole number",
    "--trainer.max_epochs=1.5": "--trainer.max_epochs 1.5: give a whole number or null",
    "--trainer.enable_progress_bar=maybe": "--trainer.enable_progress_bar maybe: give true, false or null",
    "--trainer.gradient_clip_val=big": "--trainer.gradient_clip_val big: give a number or null",
    "--trainer.limit_val_batches=abc": "--trainer.limit_val_batches abc: give a number",
    "--trainer.log_every_n_steps=x": "--trainer.log_every_n_steps x: give a whole number",
    "--trainer.accumulate_grad_batches=x": "--trainer.accumulate_grad_batches x: give a whole number",
    "--trainer.num_sanity_val_steps=abc": "--trainer.num_sanity_val_steps abc: give a whole number",
    "--trainer=abc": "--trainer abc: give its settings one by one",
    "--trainer.max_steps": "--trainer.max_steps (empty): give a whole number",
    "--model.compression=abc": "--model.compression abc: give a number or null",
    "--model.compression=nan": "--model.compression nan: give a number",
    "--model.metrics=abc": "--model.metrics abc: give a list such as [a, b]",
    "--model.metrics=[si_sdr,3]": "--model.metrics 3: give text",
    "--model.metric_workers=x": "--model.metric_workers x: give a whole number",
    "--model.student=kdse.models.Cruse --model.student.channels=abc": "--model.student.channels abc: give a list",
    "--model.student=kdse.models.Cruse --model.student.channels=[4,x]": "--model.student.channels x: give a whole",
    "--model.optimizer=torch.optim.Adam --model.optimizer.lr=abc": "--model.optimizer.lr abc: give a number",
    "--model.optimizer.lr=abc": "--model.optimizer.lr abc: give a number",
    "--model.lr_scheduler=CosineAnnealingLR --model.lr_scheduler.T_max=abc": "T_max abc: give a whole number",
    "--data.snr_db=abc": "--data.snr_db abc: give a list such as [0.5, 1]",
    "--data.snr_db=[1,x]": "--data.snr_db x: give a number",
    "--data.batch_size=null": "--data.batch_size null: give a whole number",
    "--data.batch_size=x": "--data.batch_size x: give a whole number",
    "--data.segment_seconds=nan": "--data.segment_seconds nan: give a number",
    "--data.seed=x": "--data.seed x: give a whole number or null",
    "--objectives.gram.weight=abc": "--objectives.gram.weight abc: give a number",
    "--objectives.gram.over=time": "--objectives.gram.over time: give a list",
    "--objectives.gram.pairs=[a]": "--objectives.gram.pairs a: give a list",
    "--objectives=3": "--objectives 3: give a mapping of names to values",
    "--schedule.distil_fraction=abc": "--schedule.distil_fraction abc: give a number",
    "--schedule=kdse.schedule.Phases --schedule.phases=[{steps: x}]": "--schedule.phases.steps x: give a whole number",
    "--schedule=kdse.schedule.Phases --schedule.phases=[{weights: {gram: x}}]": "weights.gram x: give a number",
    "--schedule=kdse.schedule.Phases --schedule.phases=[{stps: 3}]": "did you mean --schedule.phases.steps?",
    "--seed_everything=abc": "--seed_everything abc: give true, false or a whole number",
    "--resume=maybe": "--resume maybe: give true or false",
    "--save_every_n_steps=abc": "--save_every_n_steps abc: give a whole number or null",
    "--example_every_n_validations=x": "--example_every_n_validations x: give a whole number",
    # classes
    "--model=kdse.models.Crusey": "--model kdse.models.Crusey: no such class; there are kdse.Distiller, Enhancer",
    "--model=kdse.models.Cruse": "--model kdse.models.Cruse: is no Enhancer; there are kdse.Distiller, Enhancer",
    "--model=kdse.Enhancr": "did you mean kdse.Enhancer?",
    "--model=3": "--model 3: no such class",
    "--model=[1,2]": "--model [1, 2]: give a class path (kdse.Distiller, Enhancer)",
    "--model=cruse-62k": "--model cruse-62k: no such class",
    "--model.student=kdse.models.Crusey": "did you mean kdse.models.Cruse?",
    "--model.loss=kdse.losses.Nope": "there are kdse.losses.CompressedSpectral, MannerLoss",
    "--model.loss=torch.nn.Linear": "--model.loss: torch.nn.Linear needs in_features and out_features",
    "--model.optimizer=torch.optim.Adm": "did you mean torch.optim.Adam?",
    "--model.lr_scheduler=Nope": "there are torch.optim.lr_scheduler.LambdaLR",
    "--model.lr_scheduler=torch.optim.lr_scheduler.StepLR": "needs step_size; give --model.lr_scheduler.step_size",
    "--data=kdse.data.Nope": "there are kdse.data.Mixtures, NoisyFolder, PairedFolders, SyntheticCorpus",
    "--data=kdse.models.Cruse": "--data kdse.models.Cruse: is no LightningDataModule",
    "--objectives.gram=kdse.objectives.SimilartyPreserving": "did you mean kdse.objectives.SimilarityPreserving?",
    "--objectives.gram=3": "--objectives.gram 3: no such class; there are kdse.objectives.AttentionCompression",
    "--objectives.new.weight=3": "--objectives.new: names no class",
    "--schedule=kdse.schedule.Nope": "there are kdse.schedule.Joint, Phases, TwoStep",
    "--schedule=kdse.schedule.Phases": "--schedule: kdse.schedule.Phases needs phases; give --schedule.phases",
    "--trainer.callbacks+=EarlyStoping": "did you mean lightning.pytorch.callbacks.EarlyStopping?",
    "--trainer.callbacks+=EarlyStopping": "EarlyStopping needs monitor; give --trainer.callbacks.monitor",
    "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=a --trainer.callbacks.patience=b": "patience b: gi",
    "--trainer.logger=abc": "--trainer.logger abc: no such class; there are lightning.pytorch.loggers.CometLogger",
    # values that mean nothing
    "--objectives.gram.weight=-1": "--objectives.gram.weight=-1.0: must be 0 or more",
    "--objectives.gram.over=[phase]": "--objectives.gram.over=['phase']: use any of",
    "--model.metrics=[abc]": "--model.metrics: there is no 'abc'",
    "--model.metric_workers=-1": "--model.metric_workers=-1: must be 0 or more",
    "--model.teacher_autocast=x": "--model.teacher_autocast='x': use one of",
    "--model.teacher_checkpoint=cruse-63k": "did you mean cruse-62k?",
    "--schedule.distil_steps=5": "distil_fraction and distil_steps",
    "--schedule.distil_learning_rate=.inf": "--schedule.distil_learning_rate inf: must be a finite number",
    "--data.segment_seconds=.nan": "--data.segment_seconds nan: must be a finite number",
    "--data.snr_db=[.nan,1]": "--data.snr_db nan: must be a finite number",
    "--trainer.gradient_clip_val=.inf": "--trainer.gradient_clip_val=inf: must be 0 or more and finite",
    "--trainer.gradient_clip_val=-1": "--trainer.gradient_clip_val=-1: must be 0 or more",
    "--trainer.accumulate_grad_batches=0": "--trainer.accumulate_grad_batches=0: must be 1 or more",
    "--trainer.check_val_every_n_epoch=0": "--trainer.check_val_every_n_epoch=0: must be 1 or more",
    "--trainer.log_every_n_steps=-1": "--trainer.log_every_n_steps=-1: must be 0 or more",
    "--trainer.devices=x": "--trainer: `devices`",
    "--run_dir=": "--run_dir (empty): give a folder",
    "--seed_everything=-1": "--seed_everything -1: give a number from 0 to",
}  # fmt: skip

#: Configs after a good one, and what the line must say after the file's name.
FILES = {
    "objectve: {}": "objectve: unknown; did you mean objectives?",
    "modl: {class_path: kdse.Enhancer}": "modl: unknown; did you mean model?",
    "fit: {trainer: {max_steps: 3}}": "fit: unknown; there are seed_everything, trainer, model, data",
    "config: base.yaml": "config: unknown",
    "trainer: {max_step: 4}": "trainer.max_step: unknown; did you mean max_steps?",
    "trainer: {max_steps: abc}": "trainer.max_steps abc: give a whole number",
    "trainer: {precision: 17}": "trainer.precision 17: give 64, 32, 16",
    "trainer: 3": "trainer 3: give a mapping",
    "trainer: null": "trainer null: give a mapping",
    "model: {class_path: kdse.Distiller, init_args: {compresion: 4}}": "model.compresion: kdse.Distiller has no compr",
    "model: {class_path: kdse.Distiller, init_arg: {compression: 3}}": "did you mean init_args?",
    "model: {init_args: {compression: x}}": "model.compression x: give a number or null",
    "model: {class_path: kdse.Nope}": "model kdse.Nope: no such class; there are kdse.Distiller, Enhancer",
    "model: {class_path: 3}": "model 3: no such class",
    "model: {class_path: kdse.Distiller, init_args: {optimizer: {class_path: torch.optim.Adam, init_args: {lrr: 1}}}}":
        "model.optimizer.lrr: torch.optim.Adam has no lrr; did you mean lr?",
    "model: {class_path: kdse.Distiller, init_args: {student: {class_path: kdse.models.Crus}}}":
        "model.student kdse.models.Crus: no such class; did you mean kdse.models.Cruse?",
    "model: {init_args: {loss: {class_path: kdse.losses.WeightedSum, init_args: {losses: {a: {class_path: Nope}}}}}}":
        "model.loss.losses.a Nope: no such class; there are kdse.losses.CompressedSpectral",
    "objectives: [1, 2]": "objectives [1, 2]: give a mapping of names to values",
    "objectives: {gram: null}": "objectives.gram null: give a class path (kdse.objectives.AttentionCompression",
    "objectives: {gram: {class_path: kdse.objectives.Nope}}": "objectives.gram kdse.objectives.Nope: no such class",
    "objectives: {gram: {class_pat: kdse.objectives.Hint}}": "did you mean class_path?",
    "objectives: {gram: {class_path: kdse.objectives.SimilarityPreserving, init_args: {ovr: [time]}}}":
        "objectives.gram.ovr: kdse.objectives.SimilarityPreserving has no ovr; did you mean over?",
    "objectives: {a: {class_path: kdse.objectives.Hint}, a: {class_path: kdse.objectives.LatentMix}}":
        "the key a is there twice in one mapping (line 1)",
    "trainer: {max_steps: 3, max_steps: 4}": "the key max_steps is there twice",
    "trainer: {callbacks: [{class_path: Nope}]}": "trainer.callbacks[0] Nope: no such class",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitr: x}}]}":
        "trainer.callbacks[0].monitr: EarlyStopping has no monitr; did you mean monitor?",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: a, patience: abc}}]}":
        "trainer.callbacks[0].patience abc: give a whole number",
    "trainer: {logger: {class_path: Nope}}": "trainer.logger Nope: no such class",
    "schedule: {class_path: kdse.schedule.Phases, init_args: {phases: [{weights: {gram: 1}, stps: 3}]}}":
        "schedule.phases[0].stps: Phase has no stps; did you mean steps?",
    "schedule: kdse.schedule.Nope": "schedule kdse.schedule.Nope: no such class",
    "data: {class_path: kdse.data.Mixtures, init_args: {batch_size: big}}": "data.batch_size big: give a whole number",
    "data: {class_path: kdse.data.Mixtures, init_args: {batch_size: null}}": "data.batch_size null: give a whole num",
    "seed_everything: abc": "seed_everything abc: give true, false or a whole number",
    "run_dir: [1]": "run_dir [1]: give text",
    "a: b: c": "not readable as YAML (mapping values are not allowed in this context; line 1, column 5)",
    "- 1": "is no config",
    "": "is no config",
    "x: *a": "not readable as YAML (found undefined alias; line 1, column 4)",
}  # fmt: skip

#: Names that an objective cannot have.
NAMES = ("*", "a b", "a/b", "a=b", "a.b", "", "3", "supervised")

#: Whole command lines, and what the line must say.
COMMANDS = {
    "fit": "give --data and --model, or a --config that has them; `kdse fit --help`",
    "test --model.compresion=4": "--model.compresion: no class is named that has it",
    "test --config {base} --trainer.precision=17": "--trainer.precision 17: give 64",
    "validate --config {base} --data.batch_size=x": "--data.batch_size x: give a whole number",
    "predict --config {base} --resume=true": "--resume=true: is of kdse fit",
    "fit --config /nowhere.yaml": "/nowhere.yaml: not readable (No such file or directory)",
    "fitt": "unknown command 'fitt'; did you mean fit?",
    "taps cruse-30k --alll": "unrecognized arguments: --alll; did you mean --all",
    "profile cruse-30k --seconds abc": "--seconds abc: give a number above zero",
    "evaluate cruse-30k --corpuss x": "did you mean --corpus",
    "evaluate cruse-30k --items abc": "--items abc: give a whole number",
    "evaluate cruse-30k --synthetic --workers -1 --out o": "--workers=-1: must be 0 or more",
    "evaluate cruse-30k --data-config {data} --out o": "data.bach_size: kdse.data.Mixtures has no bach_size; did you",
    "export cruse-30k --out x.onnx --format onx": "--format onx: use one of onnx, torchscript, pt2, executorch; did yo",
    "corpus inndex x": "did you mean index",
    "sweep {twice} --out o": "the key method is there twice",
}


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Runs a command line that holds one mistake; returns its one line."""

    def accepted(self: KdseCLI) -> None:
        raise AssertionError("accepted")

    for name in ("before_fit", "before_validate", "before_test", "before_predict"):
        monkeypatch.setattr(KdseCLI, name, accepted, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    Path("base.yaml").write_text(yaml.safe_dump(BASE))

    def run(*words: str) -> str:
        assert main(list(words)) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdse")]
        assert len(lines) == 1 and len(lines[0]) <= LONGEST and not any(word in lines[0] for word in JARGON), lines
        assert not Path("run", "config.yaml").exists() and not Path("o").exists()
        return lines[0]

    return run


@pytest.mark.parametrize("flags", FLAGS)
def test_a_wrong_flag_is_one_line_with_the_flag_and_what_would_do(flags, said):
    words = flags.replace(" --", "\0--").split("\0")
    assert FLAGS[flags] in said("fit", "--config=base.yaml", *words)


@pytest.mark.parametrize("content", FILES)
def test_a_wrong_config_is_one_line_with_the_file_the_key_and_what_would_do(content, said):
    Path("wrong.yaml").write_text(content)
    line, wanted = said("fit", "--config=base.yaml", "--config=wrong.yaml"), FILES[content]
    assert (wanted if wanted.startswith("did you mean") else f"wrong.yaml: {wanted}") in line


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_gets_no_name_that_flags_logs_and_schedules_cannot_take(name, said):
    Path("named.yaml").write_text(yaml.safe_dump({"objectives": {name: BASE["objectives"]["gram"]}}))
    line = said("fit", "--config=base.yaml", "--config=named.yaml")
    assert "objectives" in line and name in line and "name" in line.replace("named.yaml", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_one_line_for_a_wrong_command_line(command, said):
    Path("data.yaml").write_text("data: {class_path: kdse.data.Mixtures, init_args: {bach_size: 3}}")
    Path("twice.yaml").write_text("method: grid\nmethod: random\n")
    words = command.format(base="base.yaml", data="data.yaml", twice="twice.yaml").split()
    assert COMMANDS[command] in said(*words)


def test_a_mistake_in_a_file_that_stands_in_place_of_a_value_names_that_file(said):
    Path("student.yaml").write_text("class_path: kdse.models.Cruse\ninit_args: {chanels: [4]}\n")
    Path("wrong.yaml").write_text("model: {class_path: kdse.Distiller, init_args: {student: student.yaml}}")
    assert "did you mean channels?" in said("fit", "--config=base.yaml", "--config=wrong.yaml")


def test_yaml_in_place_of_a_config_file_is_taken_and_its_mistakes_are_named(said):
    assert "--config: objectve: unknown; did you mean objectives?" in said("fit", "--config={objectve: {}}")
    line = said("fit", "--config=base.yaml", "--config={trainer: {max_steps: abc}}")
    assert "--config: trainer.max_steps abc: give a whole number" in line


def test_of_two_objectives_of_one_class_the_wrong_one_is_named(said):
    flags = [f"--objectives.{name}=kdse.objectives.OutputDistillation" for name in ("good", "bad")]
    weights = ["--objectives.good.weight=2", "--objectives.bad.weight=-2"]
    assert "--objectives.bad.weight=-2.0:" in said("fit", "--config=base.yaml", *flags, *weights)


def test_nothing_is_found_wrong_with_a_good_config_nor_with_all_its_settings_written_out(tmp_path, monkeypatch, capsys):
    read: list[Config] = []

    class Kept(Config):
        def __init__(self, accepted):
            super().__init__(accepted)
            read.append(self)

    monkeypatch.setattr(kdse.training.cli, "Config", Kept)
    files = sorted(Path(kdse.__file__).parent.parent.glob("experiments/methods/*.yaml"))[::4]
    for file in [Path(kdse.__file__).with_name("quickstart.yaml"), *files]:
        with pytest.raises(SystemExit):
            main(["fit", "--data=kdse.data.SyntheticCorpus", f"--config={file}", "--print_config"])
        (tmp_path / "all.yaml").write_text(capsys.readouterr().out)
        assert read[-1].mistake("none") == "none"
        read[-1].read_file(str(tmp_path / "all.yaml"))
        assert read[-1].mistake("none") == "none"
    assert len(read) > 3


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_fits_on_two_screens_and_lists_what_one_can_choose(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 100 and max(map(len, shown.splitlines())) <= 120
    wanted = ["kdse.Distiller", "kdse.Enhancer", "kdse.data.Mixtures", "kdse.data.PairedFolders", "Cruse", "--help-all"]
    if command == "fit":
        wanted += ["SimilarityPreserving", "kdse.schedule.TwoStep", "PhaseSensitive", "--trainer.max_steps", "--resume"]
    assert [name for name in wanted if name not in shown] == []


def test_the_long_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["fit", "--help-all"])
    assert leaving.value.code == 0 and "--trainer.detect_anomaly" in capsys.readouterr().out
