"""Everything that the operator and the images agree on: documents, names, limits, formats, the object storage."""

__version__ = "0.1.0"
