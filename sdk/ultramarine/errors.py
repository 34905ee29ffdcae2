"""Errors of the SDK in one place, for `except` clauses."""

from __future__ import annotations

from ultramarine_contract.errors import InvalidSpec, StorageError, UltramarineError

from .datasets import NotUsable
from .endpoints import NotReady
from .kinds import UnknownKind
from .kube.config import NoAccess
from .kube.errors import Exists, Forbidden, NotFound, Rejected
from .kube.platform import NoPlatform
from .models import InUse
from .results import OutputNotFound
from .runs import RunFailed
from .serving.route import EndpointError
from .serving.signature import DataInvalid
from .serving.trust import CertificateRefused
from .storage.data import RemoteNotFound
from .storage.work import FileInvalid

__all__ = [
    "CertificateRefused",
    "DataInvalid",
    "EndpointError",
    "Exists",
    "FileInvalid",
    "Forbidden",
    "InUse",
    "InvalidSpec",
    "NoAccess",
    "NoPlatform",
    "NotFound",
    "NotReady",
    "NotUsable",
    "OutputNotFound",
    "Rejected",
    "RemoteNotFound",
    "RunFailed",
    "StorageError",
    "UltramarineError",
    "UnknownKind",
]
