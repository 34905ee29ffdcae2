"""Compilation of a model to ONNX, and the comparison of its answers with the native model's."""
