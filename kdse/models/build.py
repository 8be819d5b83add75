"""A model from what a config names: an instance, or a factory on its own random stream."""

from __future__ import annotations

from collections.abc import Callable

from kdse.errors import UserError
from kdse.models.base import SpeechModel
from kdse.seeding import seeded

#: A model, or a function that builds one (which is what a config's class_path and init_args become). A function is
#: called on a random stream of its own, so that initial weights depend on the seed and nothing else.
ModelOrFactory = Callable[[], SpeechModel] | SpeechModel


def build(model: ModelOrFactory, name: str) -> SpeechModel:
    """The model itself, built on the random stream ``name`` of this run's seed if it is not built yet."""
    if callable(model) and not isinstance(model, SpeechModel):
        with seeded(name):
            model = model()
    if not isinstance(model, SpeechModel):
        raise UserError(f"model.{name}: {type(model).__name__} is not a SpeechModel; use kdse.models.Wrapped")
    return model
