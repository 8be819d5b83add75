"""Speech-enhancement models, as teachers and students. One family a file; `budget` finds the width for a ratio."""

from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.budget import compress, count_parameters
from kdse.models.cruse import Cruse
from kdse.models.dccrn import Dccrn
from kdse.models.manner import Manner
from kdse.models.recorded import Recorded
from kdse.models.uformer import Uformer
from kdse.models.unet import UNet
from kdse.models.wrapped import Wrapped

__all__ = [
    "Cruse",
    "Dccrn",
    "Estimate",
    "Manner",
    "Recorded",
    "SpeechModel",
    "Tap",
    "UNet",
    "Uformer",
    "Wrapped",
    "compress",
    "count_parameters",
]
