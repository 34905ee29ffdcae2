"""Admission: the API server's opinion of objects that are not created yet."""

from __future__ import annotations

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import GROUP, VERSION, Manifest, Resource

from .client import ApiError, Client

FAULTY = (400, 404, 422)  # codes that are about the object itself


async def objection(client: Client, manifest: Manifest) -> str:
    """Return the API server's objection to an object of our kinds; empty if it has none.

    Quotas and rights are not part of it: they may be others when the object is created. Raises UltramarineError if the
    server does not answer.
    """
    kind = manifest["kind"]
    try:
        await client.try_create(Resource(GROUP, VERSION, f"{kind.lower()}s", kind), manifest)
    except ApiError as error:
        if error.code in FAULTY:
            return error.message
        if not error.code or error.code >= 500 or error.code == 429:
            raise UltramarineError(error.message, "Unreachable") from error
    return ""
