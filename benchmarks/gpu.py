"""What a GPU does with kdse: speed of a step, cost of data and Grams, a resume, a whole two-step run.

    python benchmarks/gpu.py [--device cuda] [--batch 32] [--steps 40] [--minutes 8] [--json FILE]

One command of at most eight minutes, 1.9M teacher and 62k student, items of 2 s:

- steps a second of supervised and distillation steps (per-bin Grams at half weight), eager and compiled, the latter
  with CUDA graphs too, in float32 and bfloat16; batches in memory, medians;
- cost of per-bin Grams, forward and backward, as a share of the teacher's forward pass;
- `kdse fit` on the embedded corpus: share of a step that waits for data, and utilisation as the driver tells it;
- whether a run that was stopped and resumed has the weights of one that was not;
- a two-step run from nothing to its result: data, training, validations, checkpoints.

What does not fit into the time says so. ``--device cpu --batch 2 --steps 3`` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.models import Cruse
from kdse.objectives import SimilarityPreserving
from kdse.run.folder import result
from kdse.run.timing import step_cost
from kdse.schedule import Joint
from kdse.taps import TapRecorder

STUDENT = [8, 16, 32, 32]
WAYS = ("off", "on", "cuda-graphs")
PRECISIONS = ("32-true", "bf16-mixed")


class Clock(L.Callback):
    """Seconds of every step, with the device's work done."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        synchronise(pl_module.device)
        self.marks.append(time.perf_counter())


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Benchmark:
    """The parts of the benchmark, and what they found."""

    def __init__(self, device: str, batch: int, steps: int, minutes: float) -> None:
        self.device, self.batch, self.steps = torch.device(device), batch, steps
        self.accelerator = "gpu" if self.device.type == "cuda" else "cpu"
        self.until = time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {"device": self._name(), "torch": torch.__version__, "batch": batch, "seconds": 2}
        generator = torch.Generator().manual_seed(0)
        clean = 0.05 * torch.randn(batch, 32000, generator=generator)
        self.item = {"noisy": clean + 0.05 * torch.randn(batch, 32000, generator=generator), "clean": clean}

    def _name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def part(self, name: str, needs_s: float, work: Callable[[], Any]) -> None:
        """Runs a part and prints what it found, unless too little time is left."""
        left = self.until - time.monotonic()
        start = time.monotonic()
        try:
            answer = work() if left > needs_s else f"not run: {left:.0f} s left, it may need {needs_s:.0f}"
        except Exception as error:  # the other parts say something all the same
            answer = f"FAILED: {type(error).__name__}: {error}".splitlines()[0]
        self.found[name] = answer
        print(f"{name}: {json.dumps(answer)}   [{time.monotonic() - start:.0f} s]", flush=True)

    def step(self, distil: bool, way: str, precision: str) -> dict[str, Any]:
        """`one_step` in a process of its own, in which CUDA graphs can be asked of the compiler."""
        flags = ["--device", str(self.device), "--batch", str(self.batch), "--steps", str(self.steps)]
        one = ["--one", "distillation" if distil else "supervised", way, precision]
        graphs = {"TORCHINDUCTOR_CUDAGRAPHS": "1"} if way == "cuda-graphs" else {}
        left = max(10.0, self.until - time.monotonic())
        done = subprocess.run(
            [sys.executable, __file__, *flags, *one],
            env=os.environ | graphs,
            capture_output=True,
            text=True,
            timeout=left,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1][:300])
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def one_step(self, distil: bool, way: str, precision: str) -> dict[str, Any]:
        """Steps a second with batches in memory, from the median."""
        torch.manual_seed(0)
        clock = Clock()
        callbacks: list[L.Callback] = [clock]

        def adam(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=1e-4)

        common: dict[str, Any] = {
            "optimizer": adam,
            "metrics": ["si_sdr"],
            **({} if way == "off" else {"compile": way != "off"}),
        }
        module: Enhancer
        if distil:
            module = Distiller(teacher=Cruse().eval(), student=Cruse(channels=STUDENT), **common)
            callbacks += [SimilarityPreserving(), Joint(gamma=0.5)]
        else:
            module = Enhancer(Cruse(channels=STUDENT), **common)
        warm_up = max(3, self.steps // 4)
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                accelerator=self.accelerator, devices=1, precision=precision,  # type: ignore[arg-type]
                max_steps=warm_up + self.steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, gradient_clip_val=5.0, default_root_dir=folder, callbacks=callbacks,
            )  # fmt: skip
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            start = time.monotonic()
            trainer.fit(module, DataLoader([self.item] * (warm_up + self.steps), batch_size=None))  # type: ignore[arg-type]
        marks = clock.marks
        spent = [b - a for a, b in zip(marks[warm_up:], marks[warm_up + 1 :], strict=False)]
        found = {
            "steps_per_second": round(1 / statistics.median(spent), 2),
            "first_step_s": round(marks[1] - start, 1),
        }
        if self.device.type == "cuda":
            found["peak_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)
        return found

    def grams(self) -> dict[str, float]:
        """Milliseconds of the teacher's forward pass and of per-bin Grams, and their ratio."""
        teacher, student = Cruse().eval().to(self.device), Cruse(channels=STUDENT).to(self.device)
        noisy = self.item["noisy"].to(self.device)

        def activations(model: Cruse) -> list[torch.Tensor]:
            recorder = TapRecorder(model, model.taps())
            with torch.no_grad(), recorder:
                model(noisy)
            return list(recorder.activations().values())

        theirs, ours = activations(teacher), [a.requires_grad_() for a in activations(student)]
        objective = SimilarityPreserving()

        def forward() -> None:
            with torch.no_grad():
                teacher(noisy)

        works = {
            "teacher_ms": forward,
            "grams_ms": lambda: torch.autograd.grad(objective.compare(theirs, ours), ours),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(3 + self.steps // 2):
            for name, work in works.items():
                synchronise(self.device)
                start = time.perf_counter()
                work()
                synchronise(self.device)
                times[name].append(1e3 * (time.perf_counter() - start))
        found = {name: round(statistics.median(values[3:]), 3) for name, values in times.items()}
        return found | {"ratio": round(found["grams_ms"] / found["teacher_ms"], 3)}

    def fit(self, folder: str, *flags: str) -> Path:
        """A run of `kdse fit` on the embedded corpus; returns its folder."""
        run = Path(folder)
        command = [
            sys.executable, "-m", "kdse.cli", "fit", f"--run_dir={run}", f"--trainer.accelerator={self.accelerator}",
            "--trainer.devices=1", "--data=kdse.data.SyntheticCorpus", f"--data.batch_size={self.batch}",
            "--data.segment_seconds=2", "--data.validation_items=4", *flags,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"kdse fit: {' '.join(done.stderr.split())[-300:]}")
        return run

    def data(self, folder: str) -> dict[str, Any]:
        """A supervised step of `kdse fit` with its data processes, against the same with batches in memory."""
        student = ["--model=kdse.Enhancer", "--model.model=kdse.models.Cruse", f"--model.model.channels={STUDENT}"]
        self.fit(f"{folder}/corpus", *student, "--trainer.max_steps=1")  # the corpus is made here
        with Utilisation(self.device) as utilisation:
            run = self.fit(f"{folder}/data", *student, f"--trainer.max_steps={10 * self.steps}")
        cost = step_cost(run)
        if cost is None or cost.seconds_per_step is None:
            return {"error": "too few steps to time them"}
        seconds = cost.seconds_per_step
        memory = self.found.get("supervised, off, 32-true", {})
        alone = 1 / memory["steps_per_second"] if isinstance(memory, dict) and "steps_per_second" in memory else seconds
        return {
            "steps_per_second": round(1 / seconds, 2),
            "share_waiting": round(max(0.0, 1 - alone / seconds), 3),
            "utilisation_percent": utilisation.median(),
        }

    def distil_flags(self) -> list[str]:
        return [
            "--model=kdse.Distiller", "--model.teacher=kdse.models.Cruse", "--model.student=kdse.models.Cruse",
            f"--model.student.channels={STUDENT}", "--objectives.gram=kdse.objectives.SimilarityPreserving",
            "--schedule=kdse.schedule.TwoStep", "--schedule.distil_fraction=0.25",
        ]  # fmt: skip

    def resume(self, folder: str) -> dict[str, Any]:
        """Largest difference of any weight between a run in one go and one that was stopped half way and resumed."""
        ends = {}
        total = 2 * (self.steps // 2)
        for name, stops in (("whole", [total]), ("resumed", [total // 2, total])):
            for count in stops:
                flags = [*self.distil_flags(), f"--trainer.max_steps={count}", "--schedule.distil_steps=5"]
                flags.remove("--schedule.distil_fraction=0.25")
                if count != stops[0]:
                    flags.append(f"--ckpt_path={folder}/{name}/checkpoints/last.ckpt")
                run = self.fit(f"{folder}/{name}", *flags)
            state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
            ends[name] = state
        gaps = [float((ends["whole"][k].double() - ends["resumed"][k].double()).abs().max()) for k in ends["whole"]]
        return {"bit_exact": max(gaps) == 0.0, "largest_difference": max(gaps)}

    def two_step(self, folder: str) -> dict[str, Any]:
        """Seconds of a whole two-step run of 10 x `--steps` steps under a teacher that was not trained."""
        start = time.monotonic()
        run = self.fit(f"{folder}/two_step", *self.distil_flags(), f"--trainer.max_steps={10 * self.steps}")
        kept = result(run)
        return {
            "steps": 10 * self.steps, "seconds": round(time.monotonic() - start, 1), "state": kept and kept["state"]
        }  # fmt: skip


class Utilisation:
    """Utilisation of the GPU while the body runs, in percent, as nvidia-smi tells it twice a second."""

    def __init__(self, device: torch.device) -> None:
        self.values: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch) if device.type == "cuda" else None

    def __enter__(self) -> Utilisation:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
            try:
                self.values.append(int(subprocess.check_output(asked, text=True).splitlines()[0]))
            except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
                return

    def median(self) -> float | None:
        """Over the moments at which it worked at all (a start does not); None if the driver says nothing."""
        working = [value for value in self.values if value > 0]
        return statistics.median(working) if working else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--json", type=Path, default=None, help="also write what was found to this file")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; --device cpu tries the script without one")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    bench = Benchmark(arguments.device, arguments.batch, arguments.steps, arguments.minutes)
    if arguments.one:
        kind, way, precision = arguments.one
        print(json.dumps(bench.one_step(kind == "distillation", way, precision)))
        return
    ways = WAYS if bench.device.type == "cuda" else WAYS[:2]
    with tempfile.TemporaryDirectory() as folder:
        bench.part("grams", 10, bench.grams)
        for kind, distil in (("supervised", False), ("distillation", True)):
            bench.part(f"{kind}, off, 32-true", 10, lambda distil=distil: bench.step(distil, "off", "32-true"))
        bench.part("data", 60, lambda: bench.data(folder))
        bench.part("two-step run", 60, lambda: bench.two_step(folder))
        bench.part("resume", 60, lambda: bench.resume(folder))
        for kind, distil in (("distillation", True), ("supervised", False)):
            for way in ways:
                for precision in PRECISIONS:
                    name = f"{kind}, {way}, {precision}"
                    if name not in bench.found:
                        needs = 10 if way == "off" else 90
                        bench.part(name, needs, lambda d=distil, w=way, p=precision: bench.step(d, w, p))
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
