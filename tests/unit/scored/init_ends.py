"""Scoring script whose init() ends the process."""

import os
import signal


def init():
    os.kill(os.getpid(), signal.SIGKILL)


def run(data):
    return data
