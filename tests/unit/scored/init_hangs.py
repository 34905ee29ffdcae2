"""Scoring script whose init() waits for what never comes."""

import os
import time
from pathlib import Path


def init():
    Path(os.environ["AZUREML_MODEL_DIR"], "pid").write_text(str(os.getpid()))
    time.sleep(3600)


def run(data):
    return data
