"""Scoring script whose init() fails."""

import os


def init():
    open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "missing.pkl"))


def run(data):
    return data
