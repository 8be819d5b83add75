"""Speech-enhancement models, as teachers and students. One family a file; `budget` finds the width for a ratio.

Networks of kdse: `cruse`, `dccrn`, `gtcrn`, `manner`, `uformer`, `ul_unas`, `unet`; `published` loads the weights that
authors published. Teachers from elsewhere: `wrapped`, `torchscript`, `onnx`, `onnx_graphs`, `native`, `adapters`,
`recorded`, `teachers` (several at once), and `aligned`, which corrects what does not fit. Students from files of
`kdse export`: `onnx_student`.
"""

from kdse.models.adapters import Asteroid, DeepFilterNet, Denoiser, SpeechBrain
from kdse.models.aligned import Aligned
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.budget import compress, count_parameters
from kdse.models.cruse import Cruse
from kdse.models.dccrn import Dccrn
from kdse.models.gtcrn import Gtcrn
from kdse.models.manner import Manner
from kdse.models.native import DeepFilterNetNative, RnNoise
from kdse.models.onnx import Onnx
from kdse.models.onnx_graphs import OnnxSpectral, OnnxStream
from kdse.models.onnx_student import OnnxStudent
from kdse.models.recorded import Recorded
from kdse.models.teachers import Teachers
from kdse.models.torchscript import TorchScript
from kdse.models.uformer import Uformer
from kdse.models.ul_unas import UlUnas
from kdse.models.unet import UNet
from kdse.models.wrapped import Wrapped

__all__ = [
    "Aligned",
    "Asteroid",
    "Cruse",
    "Dccrn",
    "DeepFilterNet",
    "DeepFilterNetNative",
    "Denoiser",
    "Estimate",
    "Gtcrn",
    "Manner",
    "Onnx",
    "OnnxSpectral",
    "OnnxStream",
    "OnnxStudent",
    "Recorded",
    "RnNoise",
    "SpeechBrain",
    "SpeechModel",
    "Tap",
    "Teachers",
    "TorchScript",
    "UNet",
    "Uformer",
    "UlUnas",
    "Wrapped",
    "compress",
    "count_parameters",
]
