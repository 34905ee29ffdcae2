"""Comparison of the rights that the kinds declare with the plans that the unit tests make."""

from __future__ import annotations

from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.plan import Plan

Right = tuple[str, str]  # verb, kind


def of_plan(plan: Plan) -> set[Right]:
    """Return what carrying out a plan needs beside its status."""
    return {
        *(("apply", child["kind"]) for child in plan.apply),
        *(("create", made["kind"]) for made in plan.create),
        *(("create", "Secret") for _ in plan.effects),
        *(("delete", gone.resource.kind) for gone in plan.delete),
        *(("patch", edit.ref.resource.kind) for edit in plan.edits),
        *(("get", key.kind) for key in plan.absent),
    }


def declared() -> set[Right]:
    """Return what the kinds declare, with all features; pods are made by other controllers."""
    kinds = [kind.on(kind.features) for kind in KINDS]
    return {
        *(("apply", child.kind) for kind in kinds for child in kind.children if child.kind != "Pod"),
        *(("create", made.kind) for kind in kinds for made in kind.creates),
        *(("delete", gone.kind) for kind in kinds for gone in kind.deletes),
        *(("patch", edited.kind) for kind in kinds for edited in kind.edits),
        *(("get", asked.kind) for kind in kinds for asked in kind.confirms),
    }


def record(used: set[Right]) -> None:
    """Add the rights of each plan that is made from now on."""
    make = Plan.__init__

    def recording(plan: Plan, *arguments: object, **named: object) -> None:
        make(plan, *arguments, **named)  # type: ignore[arg-type]
        used.update(of_plan(plan))

    Plan.__init__ = recording  # type: ignore[method-assign]


def faults(used: set[Right]) -> list[str]:
    """Return a sentence for each right that is declared and unused, or used and undeclared."""
    kinds = {kind for _, kind in declared()}  # some tests have kinds of their own
    unused, undeclared = declared() - used, {right for right in used - declared() if right[1] in kinds}
    return [
        *(f"no plan of the unit tests needs `{verb} {kind}`: remove it from its Kind" for verb, kind in unused),
        *(f"a plan needs `{verb} {kind}`: declare it in its Kind" for verb, kind in undeclared),
    ]
