"""Ultramarine: train, register and serve models as plain Kubernetes resources."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncClient as AsyncClient
    from .aio import AsyncEndpoint as AsyncEndpoint
    from .aio import AsyncRun as AsyncRun
    from .aio import AsyncSweepRun as AsyncSweepRun
    from .client import Client as Client
    from .endpoints import Endpoint as Endpoint
    from .objects import AutoMLJob as AutoMLJob
    from .objects import Dataset as Dataset
    from .objects import DatasetVersion as DatasetVersion
    from .objects import Deployment as Deployment
    from .objects import Environment as Environment
    from .objects import Input as Input
    from .objects import Model as Model
    from .objects import ModelVersion as ModelVersion
    from .objects import OnlineEndpoint as OnlineEndpoint
    from .objects import Pipeline as Pipeline
    from .objects import PipelineRun as PipelineRun
    from .objects import Schedule as Schedule
    from .objects import Source as Source
    from .objects import Sweep as Sweep
    from .objects import TrainingJob as TrainingJob
    from .results import Output as Output
    from .runs import Run as Run
    from .runs import RunFailed as RunFailed
    from .runs import Update as Update
    from .sweeps import SweepRun as SweepRun
    from .sweeps import Trial as Trial

# Imported when they are used: the command starts without the models of the resources.
_PLACES = {
    **dict.fromkeys(("AsyncClient", "AsyncEndpoint", "AsyncRun", "AsyncSweepRun"), "aio"),
    "Client": "client",
    **dict.fromkeys(("AutoMLJob", "Dataset", "DatasetVersion"), "objects"),
    **dict.fromkeys(("Deployment", "Environment", "Input", "Model", "ModelVersion", "OnlineEndpoint"), "objects"),
    **dict.fromkeys(("Pipeline", "PipelineRun", "Schedule", "Source", "Sweep", "TrainingJob"), "objects"),
    "Endpoint": "endpoints",
    "Output": "results",
    **dict.fromkeys(("Run", "RunFailed", "Update"), "runs"),
    **dict.fromkeys(("SweepRun", "Trial"), "sweeps"),
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
