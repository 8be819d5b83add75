"""Students as files for other runtimes: ONNX, TorchScript, torch.export. See `kdse export`."""
