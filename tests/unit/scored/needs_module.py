"""Scoring script with a package that no environment has."""

import package_that_is_missing.part


def init():
    package_that_is_missing.part.load()


def run(data):
    return data
