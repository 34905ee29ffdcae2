"""All kinds. A new one is a room beside these, and a line here."""

from __future__ import annotations

from ..shared.plan import Kind, Platform
from . import model, onlineendpoint, sweep, trainingjob

KINDS = (trainingjob.KIND, model.MODEL_KIND, model.VERSION_KIND, onlineendpoint.KIND, sweep.KIND)


def kinds_on(platform: Platform) -> tuple[Kind, ...]:
    """All kinds, with the children that they have on this platform."""
    if platform.gateway_api is None:
        return KINDS
    return tuple(onlineendpoint.GATEWAY_API_KIND if kind is onlineendpoint.KIND else kind for kind in KINDS)
