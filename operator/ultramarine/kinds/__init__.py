"""All kinds. A new one is a room beside these, and a line here."""

from __future__ import annotations

from . import model, onlineendpoint, trainingjob

KINDS = (trainingjob.KIND, model.MODEL_KIND, model.VERSION_KIND, onlineendpoint.KIND)
