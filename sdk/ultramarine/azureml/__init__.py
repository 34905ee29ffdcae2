"""Azure Machine Learning CLI v2 files: conversion to manifests, with a report of what is lost."""

from ultramarine.azureml.compute import Compute, read_table
from ultramarine.azureml.conversion import LOCATION, convert
from ultramarine.azureml.recognition import is_azureml, is_of_azureml, turns_traffic
from ultramarine.azureml.report import Conversion, ConvertedFile, Loss, Place, Upload
from ultramarine.azureml.sources import inlined

__all__ = [
    "LOCATION",
    "Compute",
    "Conversion",
    "ConvertedFile",
    "Loss",
    "Place",
    "Upload",
    "convert",
    "inlined",
    "is_azureml",
    "is_of_azureml",
    "read_table",
    "turns_traffic",
]
