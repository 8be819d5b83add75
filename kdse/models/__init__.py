"""Speech-enhancement models, as teachers and students."""

from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.budget import compress, count_parameters
from kdse.models.cruse import Cruse
from kdse.models.wrapped import Wrapped

__all__ = ["Cruse", "Estimate", "SpeechModel", "Tap", "Wrapped", "compress", "count_parameters"]
