"""Tensors and documents of the Open Inference Protocol V2, without a transport."""
