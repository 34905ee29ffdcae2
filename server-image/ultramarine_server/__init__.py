"""The server image: fetch one model, check it, and serve it by the Open Inference Protocol V2."""

__version__ = "0.1.0"
