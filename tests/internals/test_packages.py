"""What kdse uses of other packages' internals (Lightning's: `test_lightning`) is there and does what it must.

Without it the error is one sentence that names the package, its version, what is gone and what was tested.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import litdata.streaming.downloader
import litdata.streaming.writer
import onnxscript.rewriter
import optuna
import pytest
import submitit
import torch
import torch._dynamo.exc
import torch._functorch.config
import torch._inductor.exc
import torch.utils._python_dispatch
import wandb
from onnxscript.rewriter.rules.common import _no_op

from kdse.internals.library import Library, MissingInternal
from kdse.internals.litdata import ITEM_HEADER, LITDATA, WORD, downloader, write_chunk
from kdse.internals.onnxscript import ONNXSCRIPT, exact_rewrites
from kdse.internals.optuna import OPTUNA, queued_values, taken_up
from kdse.internals.submitit import SUBMITIT, batch_script
from kdse.internals.torch import (
    TORCH,
    FollowedModule,
    compiler_errors,
    cxx_compiler,
    prepare_compiler,
    traced_as,
    version,
    watched,
    without_forward_hooks,
    without_records,
)
from kdse.internals.wandb import WANDB, earlier_starts, start_folder, without_system_metrics
from tests.internals.absence import sentence

# --- the error itself ---


def test_a_package_that_is_not_installed_is_an_import_error_and_not_a_missing_internal(monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ImportError, match="litdata"):
        LITDATA.load("litdata.streaming.writer", "BinaryWriter")


def test_a_module_that_is_gone_is_named_and_what_it_imports_itself_is_not_taken_for_it(tmp_path, monkeypatch):
    with pytest.raises(MissingInternal, match=sentence(TORCH, "torch._gone.name")):
        TORCH.load("torch._gone", "name")
    (tmp_path / "broken_package.py").write_text("import a_package_that_is_nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_nowhere"):
        Library("torch", "1", "torch").load("broken_package", "name")


def test_setting_what_is_not_there_is_refused():
    with pytest.raises(MissingInternal, match=sentence(TORCH, "new")):
        TORCH.put(SimpleNamespace(), "new", 1)


# --- torch ---


def test_a_tensors_version_counts_changes_in_place():
    tensor = torch.zeros(2)
    before = version(tensor)
    tensor.add(1)
    assert version(tensor) == before
    tensor.add_(1)
    assert version(tensor) == before + 1
    with torch.inference_mode():
        assert version(torch.zeros(2)) == 0


def test_no_forward_hook_is_called_without_them_and_all_are_back_in_order_also_after_an_error():
    model, seen = torch.nn.Sequential(torch.nn.Identity()), []
    for number in range(2):
        model[0].register_forward_hook(lambda *_, number=number: seen.append(number))
    model.register_forward_hook(lambda *_: seen.append(2))
    with pytest.raises(KeyError), without_forward_hooks(model):
        model(torch.zeros(1))
        raise KeyError
    assert seen == []
    model(torch.zeros(1))
    assert seen == [0, 1, 2]


def test_a_follower_goes_from_type_to_type_and_device_to_device_without_being_a_part():
    class Followed(FollowedModule):
        def __init__(self, other: torch.nn.Module) -> None:
            super().__init__()
            self.line = torch.nn.Linear(1, 1)
            self.others = [other]

        @property
        def follower(self) -> torch.nn.Module:
            return self.others[0]

    other = torch.nn.Linear(2, 2)
    followed = Followed(other)
    assert set(followed.state_dict()) == {"line.weight", "line.bias"}
    for move, dtype, device in (
        (followed.double, torch.float64, "cpu"),
        (followed.bfloat16, torch.bfloat16, "cpu"),
        (lambda: followed.to("meta", torch.float32), torch.float32, "meta"),
    ):
        move()
        for module in (followed.line, other):
            assert module.weight.dtype == dtype and module.weight.device.type == device


def test_every_operator_below_autograd_is_watched():
    seen: list[Any] = []
    x = torch.ones(2, 2, requires_grad=True)
    with watched(seen.append):
        (x @ x + x).sum().backward()
    names = [str(op) for op in seen]
    assert names[:3] == ["aten.mm.default", "aten.add.Tensor", "aten.sum.default"]
    assert names.count("aten.mm.default") == 3  # (and two of the gradient)
    assert all(hasattr(op, "is_view") for op in seen)


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_a_recurrent_layer_is_traced_by_the_rule_only_within_the_body():
    gru, calls = torch.nn.GRU(3, 4, batch_first=True), []

    def rule(x: torch.Tensor, hidden: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(x.shape)
        return x.new_empty(*x.shape[:2], 4), torch.empty_like(hidden)

    def operators() -> list[str]:
        program = torch.export.export(gru, (torch.zeros(1, 5, 3),), strict=False)
        return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]

    gru_op = torch.ops.aten.gru.input
    kernels = dict(gru_op.py_kernels)
    with torch.no_grad():
        with traced_as({gru_op: rule}):
            assert "aten.gru.input" in operators()
        assert calls and dict(gru_op.py_kernels) == kernels
        calls.clear()
        operators()
    assert not calls


def test_the_rules_leave_the_table_of_decompositions_as_it_was():
    table = torch._decomp.global_decomposition_table["post_autograd"]
    before = dict(table)
    for op in (torch.ops.aten.gru.input, torch.ops.aten.mm.default):  # one that is listed there, one that is not
        with traced_as({op: lambda *_: None}):
            assert dict(table) != before
        assert dict(table) == before


def test_a_torchscript_file_without_some_records_still_loads():
    program = torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2))
    buffer = io.BytesIO()
    torch.jit.save(program, buffer, _extra_files={"note": "kept"})
    made_anew = ("version", "byteorder", ".data/serialization_id")
    content = without_records(buffer.getvalue(), lambda name: name.endswith(".debug_pkl") or name in made_anew)
    kept, whole = (zipfile.ZipFile(io.BytesIO(data)).namelist() for data in (content, buffer.getvalue()))
    assert any(name.endswith(".debug_pkl") for name in whole) and not any(name.endswith(".debug_pkl") for name in kept)
    found = {"note": ""}
    loaded = torch.jit.load(io.BytesIO(content), _extra_files=found)
    assert found["note"] in ("kept", b"kept")
    x = torch.randn(4, 2)
    assert torch.equal(loaded(x), program(x))


def test_compiled_backward_passes_keep_their_graphs_on_request():
    x, limit = torch.ones(3, requires_grad=True), 8
    y = torch.compile(lambda x: x.sin().exp().sum(), backend="aot_eager")
    # (these modules hide for good what a monkeypatch takes back)
    dynamo, functorch = torch._dynamo.config, torch._functorch.config
    with dynamo.patch(recompile_limit=limit), functorch.patch(donated_buffer=True):
        prepare_compiler(keep_graphs=True)
        value = y(x)
        first, second = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second) and dynamo.recompile_limit > limit and not functorch.donated_buffer


class Operator:
    def __init__(self, *kernels: dict[Any, Any]) -> None:
        for self.py_kernels in kernels:
            pass


def trace_with_nothing(op: Any) -> None:
    with traced_as({op: lambda *_: None}):
        pass


def watch_nothing() -> None:
    with watched(print):
        pass


def rewrite_nothing() -> None:
    with exact_rewrites():
        pass


GRU = torch.ops.aten.gru.input


@pytest.mark.parametrize(
    ("library", "owner", "name", "call"),
    [
        (TORCH, torch.nn.Module, "_apply", lambda: type("Some", (FollowedModule,), {})),
        (TORCH, torch.utils._python_dispatch, "TorchDispatchMode", watch_nothing),
        (TORCH, torch._decomp, "global_decomposition_table", lambda: trace_with_nothing(GRU)),
        (TORCH, torch._C, "DispatchKey", lambda: trace_with_nothing(GRU)),
        (TORCH, torch._C, "PyTorchFileReader", lambda: without_records(b"", bool)),
        (TORCH, torch._dynamo.exc, "TorchDynamoException", compiler_errors),
        (TORCH, torch._inductor.exc, "InvalidCxxCompiler", cxx_compiler),
        (ONNXSCRIPT, onnxscript.rewriter, "_DEFAULT_REWRITE_RULES", rewrite_nothing),
        (ONNXSCRIPT, _no_op, "rules", rewrite_nothing),
        (LITDATA, litdata.streaming.writer, "BinaryWriter", lambda: write_chunk(Path("x"), 0, [], 1)),
        (LITDATA, litdata.streaming.downloader, "get_downloader", lambda: downloader("x")),
        (LITDATA, litdata.streaming.downloader, "Downloader", lambda: downloader("x")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_internal_that_is_gone_is_named_with_versions_and_the_fix(monkeypatch, library, owner, name, call):
    monkeypatch.delattr(owner, name)
    with pytest.raises(MissingInternal, match=sentence(library, name)):
        call()


@pytest.mark.parametrize(
    ("library", "name", "call"),
    [
        (TORCH, "_version", lambda: version(SimpleNamespace(is_inference=lambda: False))),
        (TORCH, "py_kernels", lambda: trace_with_nothing(Operator())),
        (TORCH, "_dispatch_cache", lambda: trace_with_nothing(Operator({}))),
        (OPTUNA, "_trial_id", lambda: taken_up(None, SimpleNamespace())),
        (OPTUNA, "system_attrs", lambda: queued_values(SimpleNamespace())),
        (SUBMITIT, "parameters", lambda: batch_script(SimpleNamespace(), 2)),
        (SUBMITIT, "_make_submission_file_text", lambda: batch_script(SimpleNamespace())),
        (SUBMITIT, "_submitit_command_str", lambda: batch_script(SimpleNamespace(_make_submission_file_text=str))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_attribute_that_an_object_lacks_is_named_too(library, name, call):
    with pytest.raises(MissingInternal, match=sentence(library, name)):
        call()


def test_forward_hooks_that_are_kept_elsewhere_are_named(monkeypatch):
    model = torch.nn.Identity()
    monkeypatch.delattr(model, "_forward_hooks")
    with pytest.raises(MissingInternal, match=sentence(TORCH, "_forward_hooks")), without_forward_hooks(model):
        pass


# --- onnxscript ---


def test_a_tiny_constant_is_added_within_the_body_and_dropped_outside():
    x, y = (onnxscript.ir.Value(name=n, shape=onnxscript.ir.Shape([2])) for n in "xy")
    assert len(_no_op.rules.rules) and set(_no_op.rules.rules) <= set(onnxscript.rewriter._DEFAULT_REWRITE_RULES)
    text = '<ir_version: 9, opset_import: ["" : 18]> graph (float[2] x) => (float[2] y) <float e = {1e-12}> '
    import onnx

    def operators() -> list[str]:
        model = onnx.parser.parse_model(text + "{ s = Add(x, e)  y = Sqrt(s) }")
        return [node.op_type for node in onnxscript.optimizer.optimize(model).graph.node]

    with exact_rewrites():
        assert operators() == ["Add", "Sqrt"]
    assert operators() == ["Sqrt"]


def test_rules_that_are_not_among_the_default_ones_any_more_are_named(monkeypatch):
    monkeypatch.setattr(onnxscript.rewriter, "_DEFAULT_REWRITE_RULES", ())
    with pytest.raises(MissingInternal, match="^onnxscript .* has no rule of `_no_op` in .*tested with onnxscript 0.7"):
        rewrite_nothing()


# --- LitData ---


def test_a_chunk_is_laid_out_as_kdse_reads_it_and_its_index_says_so(tmp_path):
    items = [b"a", b"", b"five5"]
    made, index = write_chunk(tmp_path / "new", 7, items, 1000)
    content = made.read_bytes()
    count, *places = struct.unpack("<5I", content[: WORD * 5])
    assert count == 3 and places[0] == WORD * 5 and places[-1] == len(content)
    for item, start, end in zip(items, places, places[1:], strict=False):
        assert content[start + ITEM_HEADER : end] == item
    (about,) = index["chunks"]
    assert about["chunk_size"] == 3 and about["chunk_bytes"] == len(content) and "-7" in about["filename"]
    assert index["config"]["data_format"] == ["bytes"]


def test_a_downloader_fetches_files_and_tells_whether_it_reads_parts(tmp_path, monkeypatch):
    class Whole(litdata.streaming.downloader.LocalDownloader):
        download_bytes = litdata.streaming.downloader.Downloader.download_bytes

    class Parts(litdata.streaming.downloader.LocalDownloader):
        def download_bytes(self, *_: Any) -> bytes:
            return b"part"

    (tmp_path / "file").write_bytes(b"content")
    for kind, parts in ((Whole, False), (Parts, True)):
        monkeypatch.setattr(litdata.streaming.downloader, "LocalDownloader", kind)
        client, reads_parts = downloader(str(tmp_path))
        assert type(client) is kind and reads_parts is parts
        client.download_file(str(tmp_path / "file"), str(tmp_path / kind.__name__))
        assert (tmp_path / kind.__name__).read_bytes() == b"content"


# --- Optuna ---


def test_a_running_trial_goes_on_with_what_was_drawn_and_queued():
    study = optuna.create_study()
    study.enqueue_trial({"a": 0.25, "b": 0.5})
    study.ask().suggest_float("a", 0, 1)
    study.ask()
    queued, drawn = study.get_trials()
    assert queued_values(queued) == {"a": 0.25, "b": 0.5} and queued_values(drawn) == {}
    again = taken_up(study, queued)
    assert again.number == 0 and again.params == {"a": 0.25}
    assert again.suggest_float("a", 0, 1) == 0.25 and again.suggest_float("b", 0, 1) == 0.5
    study.tell(again, 3.0)
    assert [trial.value for trial in study.get_trials()] == [3.0, None] and len(study.get_trials()) == 2


# --- submitit ---


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_batch_script_is_the_one_that_submitit_hands_to_sbatch(tmp_path, monkeypatch, jobs):
    for command, does in (("srun", "exit 1"), ("sbatch", f'cp "$1" {tmp_path}/sent; echo "Submitted batch job 12"')):
        (tmp_path / command).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    executors = [submitit.SlurmExecutor(tmp_path / "log") for _ in range(2)]
    for executor in executors:
        executor.update_parameters(time=7, array_parallelism=jobs)
    executors[0].submit_array([submitit.helpers.CommandFunction(["true"])] * jobs)
    script = batch_script(executors[1], jobs)
    assert (
        script == (tmp_path / "sent").read_text() and "--time=7" in script and ("--array=0-2" in script) == (jobs > 1)
    )


# --- Weights & Biases ---


def test_starts_of_a_run_are_counted_by_their_folders_and_measure_no_system(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    settings = without_system_metrics(silent=True, console="off")
    assert settings.x_disable_stats is True and settings.silent is True
    for earlier, name in ((0, "one"), (0, "two"), (1, "one")):
        run = wandb.init(mode="offline", dir=tmp_path, id=name, project="p", settings=settings, reinit="create_new")
        assert earlier_starts(run) == earlier
        assert list(start_folder(run).glob(f"run-{name}.wandb"))
        run.finish()


def test_run_folders_of_another_name_and_a_setting_that_is_gone_are_named(tmp_path, monkeypatch):
    with pytest.raises(MissingInternal, match="^wandb .* has no run folder named run-TIME-ID .it is elsewhere., which"):
        earlier_starts(SimpleNamespace(dir=str(tmp_path / "elsewhere" / "files"), id="abc"))
    monkeypatch.delitem(wandb.Settings.model_fields, "x_disable_stats")
    with pytest.raises(MissingInternal, match=sentence(WANDB, "Settings.x_disable_stats")):
        without_system_metrics()
