"""Runs: objects that end by themselves, their logs, and how they are started again."""

from __future__ import annotations

from .run import BUILT as BUILT
from .run import ENDED as ENDED
from .run import HasEnded as HasEnded
from .run import Run as Run
from .run import RunFailed as RunFailed
from .run import Update as Update
from .run import duration_of as duration_of
from .run import explanation as explanation
from .run import reference_of as reference_of
from .run import state_of as state_of
