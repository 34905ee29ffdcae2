"""Tokens of a Sweep's pods: each keeps the token that was in the Secret at its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ultramarine_contract.common import ENV_SWEEP_TOKEN
from ultramarine_contract.meta import LABEL_NAME, Manifest, controller_uid
from ultramarine_operator.kinds.sweep.manifests import COORDINATOR
from ultramarine_operator.shared.pods import is_running
from ultramarine_operator.training.trials import TOKEN_KEY


@dataclass
class Tokens:
    """The tokens of all pods that have started, by uid; `objects` are all that there are, by kind and name."""

    objects: Mapping[tuple[str, str], Manifest]
    _given: dict[str, str] = field(default_factory=dict)

    def wanted(self, pod: Manifest) -> str:
        """The Secret that a pod still has to have read before it starts, or nothing."""
        if pod["metadata"]["uid"] in self._given:
            return ""
        env = pod["spec"]["containers"][0].get("env") or ()
        names = [each["valueFrom"]["secretKeyRef"]["name"] for each in env if each["name"] == ENV_SWEEP_TOKEN]
        return str(names[0]) if names else ""

    def give(self, pod: Manifest, secret: Manifest) -> None:
        """Start a pod with what is in the Secret now."""
        self._given[pod["metadata"]["uid"]] = secret["data"][TOKEN_KEY]

    def are_alike(self, pod: Manifest, other: Manifest) -> bool:
        """True if two started pods have the same token."""
        return self._given.get(pod["metadata"]["uid"]) == self._given.get(other["metadata"]["uid"])

    def strangers(self, pod: Manifest) -> Iterator[str]:
        """Which coordinator would refuse this pod, a worker that runs."""
        token, sweep = self._given.get(pod["metadata"]["uid"]), pod["metadata"]["labels"].get(LABEL_NAME)
        job = self.objects.get(("Job", f"{sweep}-{COORDINATOR}"))
        if token is None or job is None:
            return
        for (kind, name), other in self.objects.items():
            its = self._given.get(other["metadata"]["uid"], token)
            if kind == "Pod" and controller_uid(other) == job["metadata"]["uid"] and is_running(other) and its != token:
                yield f"a worker of Sweep {sweep} has another token than its coordinator {name}"
