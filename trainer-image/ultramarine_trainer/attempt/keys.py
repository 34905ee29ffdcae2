"""The storage keys of a training pod: the namespace's are exchanged for some that open what its task names alone.

The embedded storage knows such keys by themselves: storage-image/accounts.go says how they are made.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping

from ultramarine_contract import common as contract
from ultramarine_contract.cache_records import record_uris
from ultramarine_contract.common import UNREADABLE
from ultramarine_contract.training_records import TrainingContext, TrainingTask

ACCESS, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
_OF_NAMESPACES = "namespace-"
_LONGEST = 4096  # characters of a scope; it is sent with each request


def narrowed(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment with keys for the task alone; nothing where it has none that can be exchanged."""
    account, secret = environment.get(ACCESS, ""), environment.get(SECRET, "")
    try:
        context = TrainingContext.from_json(environment.get(contract.ENV_CONTEXT, "{}"))
        task = TrainingTask.from_json(environment.get(contract.ENV_TASK, ""))
    except UNREADABLE:
        return None  # whoever reads it next says so
    if not context.scoped_keys or not account.startswith(_OF_NAMESPACES) or "~" in account:
        return None
    account = f"{account}~{_scope(task, context, account.removeprefix(_OF_NAMESPACES))}"
    derived = hmac.new(secret.encode(), account.encode(), hashlib.sha256).hexdigest()
    return {**environment, ACCESS: account, SECRET: derived}


def _scope(task: TrainingTask, context: TrainingContext, namespace: str) -> str:
    """Return the scope of the task: keys, and prefixes of keys that end in a slash."""
    records = record_uris(task.output_prefix, context.cache)
    uris = [*task.inputs.values(), *task.streams.values()]
    uris += [
        part
        for part in (
            task.source and task.source.uri,
            task.checkpoint and task.checkpoint.resume_from,
            task.environment and task.environment.uri,
        )
        if part
    ]
    written = [_key(task.output_prefix), *(_key(uri).rpartition("/")[0] for uri in records)]
    scope = {"write": [f"{key.rstrip('/')}/" for key in written], "read": sorted({_key(uri) for uri in uris})}
    text = json.dumps(scope)
    if len(text) > _LONGEST or "*" in text or "?" in text:  # these are wildcards to the storage
        text = json.dumps({**scope, "read": [f"{namespace}/", "shared/"]})
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _key(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]
