"""One two-step run under torchrun (or alone), for tests/test_ddp.py: ``ddp_run.py OUT BATCH GATHER
[compiled]``."""

import os
import sys

import torch

import kdse.compiling
from kdse.distiller import Distiller
from kdse.objectives import SimilarityPreserving
from kdse.schedule import TwoStep
from tests.test_distiller import HeadedObjective
from tests.toys import ToyData, make_student, make_teacher, make_trainer


def main() -> None:
    out, batch, gather = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "gather"
    compiled = "compiled" in sys.argv
    kdse.compiling.PAYS, kdse.compiling.BACKEND = 10.0, "aot_eager"  # all that was compared; no kernels are built
    torch.manual_seed(0)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    model = Distiller(
        teacher=make_teacher,
        student=make_student,
        metrics=["si_sdr"],
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-2),
        compile=compiled,
    )
    callbacks = [SimilarityPreserving(gather=gather), HeadedObjective(weight=0.1), TwoStep(distil_steps=3)]
    trainer = make_trainer(out, callbacks, devices=world, strategy="ddp" if world > 1 else "auto", max_steps=6)
    trainer.fit(model, ToyData(batch_size=batch))
    if trainer.is_global_zero:
        torch.save({"student": model.student.state_dict(), "heads": model.heads.state_dict()}, f"{out}/weights.pt")


if __name__ == "__main__":
    main()
