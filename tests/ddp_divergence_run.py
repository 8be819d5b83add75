"""Training under torchrun in which only the second process's loss breaks: ``ddp_divergence_run.py OUT``."""

import json
import sys
from pathlib import Path

import torch

from kdse.enhancer import Enhancer
from kdse.errors import Diverged
from tests.toys import ToyData, make_student, make_trainer
from tests.training.test_divergence import Breaks, Seen


def main() -> None:
    out = Path(sys.argv[1])
    torch.manual_seed(0)
    loss = Breaks([])
    guard = Seen(out, max_steps=1)
    trainer = make_trainer(out, [guard], devices=2, strategy="ddp", max_steps=6)
    if trainer.global_rank == 1:
        loss.calls = {1, 3, 4}
    message = ""
    try:
        trainer.fit(Enhancer(make_student, loss, metrics=["si_sdr"]), ToyData(batch_size=2))
    except Diverged as error:
        message = str(error)
    sums = [sum(float(value.double().sum()) for value in state.values()) for state in guard.states]
    about = {"message": message, "skipped": guard.skipped, "sums": sums}
    (out / f"{trainer.global_rank}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()
