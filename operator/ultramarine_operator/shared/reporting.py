"""Reports that a pod posts about its object while it runs: their route, their type, and the pod that may post them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.meta import Manifest

from .plan import Obj
from .pods import created

Child = Callable[[str, str], Manifest | None]  # the child of that kind and name, if it exists


def no_reply(_obj: Obj[Any], _report: Any, _child: Child) -> Manifest | None:
    """Reply with nothing."""
    return None


def never(_report: Any) -> object:
    """Mark no report as urgent."""
    return ()


@dataclass(frozen=True)
class Reporting:
    """Reports of a kind's pods: POST /PATH/NAMESPACE/NAME with their own token.

    `read` turns the body into a report, and raises ValueError; `record` names its type in messages. Of the pods that
    `senders` returns, by an object's name and children, the newest speaks, and `sender` names it in messages. A report
    that differs from the one before in `urgency` gets a pass at once. `reply` is the answer to a report. `image_of`
    names the container whose image the pods may ask for by GET; they may not if it is empty.
    """

    path: str
    read: Callable[[bytes], Any]
    record: str
    senders: Callable[[str, list[Manifest]], list[Manifest]]
    sender: str
    urgency: Callable[[Any], object] = never
    reply: Callable[[Obj[Any], Any, Child], Manifest | None] = no_reply
    image_of: str = ""

    def speaker(self, name: str, children: Iterable[Manifest]) -> Manifest | None:
        """Return the pod whose reports count; None if no pod exists."""
        pods = self.senders(name, list(children))
        return max(pods, key=lambda pod: (created(pod), not _is_over(pod), str(pod["metadata"]["name"])), default=None)


def _is_over(pod: Manifest) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
