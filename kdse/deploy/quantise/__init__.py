"""ONNX students with 8-bit weights. See `kdse export --quantize`."""

from kdse.deploy.quantise.quantise import MODES, quantise_file

__all__ = ["MODES", "quantise_file"]
