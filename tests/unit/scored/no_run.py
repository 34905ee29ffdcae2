"""Scoring script without run()."""


def init():
    pass
