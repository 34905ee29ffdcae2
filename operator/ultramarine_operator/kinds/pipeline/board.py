"""States of the steps of a run: one pass over them decides which begin, which go on and which have ended.

A pass may need answers of the storage: `asked` are the questions of a pass, and the next one has their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ultramarine.resources import pipeline_conditions as conditions
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.dataset_versions import NotReady, pinned
from ultramarine.resources.pipeline import CachedFrom, RunDataset, Step, StepState, StepStatus
from ultramarine.resources.pipeline_conditions import ConditionError
from ultramarine.resources.pipeline_keys import reusable
from ultramarine.resources.pipeline_references import Reference, filled
from ultramarine.resources.pipeline_steps import RUNNABLES
from ultramarine.resources.pipeline_values import Unresolved, Values, recorded_outputs
from ultramarine_contract.cache_records import CacheRecord
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import PIPELINE_RUN, SWEEP, TRAINING_JOB, Manifest, Ref, controller_uid

from ...shared.conditions import ENDED as ENDED_RUNS
from ...shared.conditions import parse_timestamp, timestamp
from ...shared.datasets import look_up
from ...shared.plan import Edit, Seen
from ...shared.questions import CacheAnswer, LookUpStep, Question
from ...training.composing import edited, failure_of
from . import results
from .graph import Graph, Node
from .pins import numbered
from .results import ENDED, MAX_MESSAGE, may_pass
from .work import Run, Work, child_name, child_of, parts_of, pipeline_of

MAX_LOOK_UPS = 64  # questions about the cache in one pass
RETRY = timedelta(seconds=5)  # after the storage did not answer


@dataclass
class Board:
    """States of a run's steps, with the writes that follow from them."""

    run: Run
    graph: Graph
    params: Mapping[str, Any]
    seen: Seen
    now: datetime
    states: dict[str, StepStatus]
    repeat: Callable[[Board, Node], None]  # brings the repetitions of a step as far as they go
    publish: Callable[[Board, Node, StepStatus, Work], None]
    reused: Mapping[str, StepStatus] = field(default_factory=dict)  # results of an earlier run, by name
    datasets: Sequence[RunDataset] = ()  # versions that the run began with
    edited: Mapping[str, str] = field(default_factory=dict)  # why results of an earlier run are not taken over
    children: dict[str, Manifest] = field(default_factory=dict)
    apply: list[Manifest] = field(default_factory=list)
    delete: list[Ref] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)
    after: timedelta | None = None

    def __post_init__(self) -> None:
        kinds = {runnable.resource.kind for runnable in RUNNABLES if runnable.resource is not None}
        self.children = {c["metadata"]["name"]: c for c in self.seen.children if c["kind"] in kinds}
        self.spec = self.graph.spec
        self.numbers = {dataset.reference: numbered(dataset) for dataset in self.datasets}
        lists = {node.step.name for node in self.graph.nodes if node.step.for_each is not None}
        self.values = Values(self.params, self.states, lists)
        self.failed = [state.name for state in self.states.values() if state.state == "Failed"]
        self.steps = {node.step.name for node in self.graph.nodes}

    def advance(self) -> None:
        """Bring each step as far as it goes."""
        former = dict(self.states)
        self.states.clear()  # in the order of the pipeline again
        for step in (*self.spec.steps, *self.spec.finally_):
            if step.name in former:
                self.states[step.name] = former[step.name]
            else:
                self.put(step.name, "Waiting", miss_reason=self.edited.get(step.name))
            for number in range(self.states[step.name].items or 0):
                if (part := former.get(f"{step.name}-{number}")) is not None:
                    self.states[part.name] = part
        for node in self.graph.nodes:
            if not node.is_final or all(self.states[step.name].state in ENDED for step in self.spec.steps):
                self._advance_step(node)

    @property
    def is_over(self) -> bool:
        """True if all steps have ended."""
        return all(self.states[step.name].state in ENDED for step in (*self.spec.steps, *self.spec.finally_))

    def _advance_step(self, node: Node) -> None:
        step, state = node.step, self.states[node.step.name]
        if state.state in ENDED:
            return
        if step.name in self.reused and state.state == "Waiting" and not node.is_final:
            self._take_over(step.name, self.reused[step.name])
            return
        if state.state == "Waiting" and not self._may_begin(node):
            return
        if step.for_each is None and step.while_ is None:
            self.advance_work(node, step.name, None)
            return
        try:
            self.repeat(self, node)
        except Unresolved as error:
            self.end(step.name, "Failed", str(error))

    # ---- Beginning

    def _may_begin(self, node: Node) -> bool:
        """True if a waiting step may begin now; a step that never will is skipped."""
        step, needs, decisive = node.step, node.needs, node.decisive
        if self.run.spec.cancel and not node.is_final:
            self.end(step.name, "Skipped", "the run is cancelled")
        elif self._is_halted(node) and all(self.states[name].state in ENDED for name in decisive):
            self.end(step.name, "Skipped", f"step {self.failed[0]} failed")
        elif not all(self.states[name].state in ENDED for name in needs):
            return False
        elif lacking := [name for name in sorted(needs - decisive) if self.states[name].state != "Succeeded"]:
            word = "failed" if self.states[lacking[0]].state == "Failed" else "was skipped"
            self.end(step.name, "Skipped", f"step {lacking[0]} {word}")
        elif self.run.spec.suspend:
            return False
        elif self._is_wanted(node):
            return True
        return False

    def _is_halted(self, node: Node) -> bool:
        """True if the failure of another step keeps this one from beginning; its `when` may be about the failure."""
        if not self.failed or self.spec.continue_on_step_failure or node.is_final:
            return False
        return not node.decisive.intersection(self.failed)

    def _is_wanted(self, node: Node) -> bool:
        """True if the condition of a step holds; otherwise the step is skipped, or fails with its condition."""
        step = node.step
        if step.when is None:
            return True
        try:
            if conditions.holds(step.when, self.values.names(node.decisive, None)):
                return True
            self.end(step.name, "Skipped", f"{step.when} is false")
        except ConditionError as error:
            self.end(step.name, "Failed", f"when: {error}")
        return False

    def _take_over(self, name: str, former: StepStatus) -> None:
        """Take over the results of an earlier run."""
        assert self.run.spec.rerun is not None
        origin = former.cached or CachedFrom(run=self.run.spec.rerun.of, job=former.child)
        fields = ("kind", "items", "outputs", "metrics", "published", "partitions")
        kept: dict[str, Any] = {name: getattr(former, name) for name in fields}
        self.end(name, "Succeeded", cached=origin, key=former.key, **kept)
        for number in range(former.items or 0):
            if (part := self.reused.get(f"{name}-{number}")) is not None:
                self._take_over(part.name, part)

    # ---- Work

    def advance_work(self, node: Node, name: str, item: Any) -> None:
        """Bring one object's worth of work as far as it goes."""
        state = self.states.setdefault(name, StepStatus(name=name, state="Waiting"))
        if state.state in ENDED:
            return
        child = self.children.get(state.child) if state.child else None
        if state.state == "Running" and child is not None:
            self._follow(node, state, child)
        elif self.run.spec.cancel and not node.is_final:
            self.end(name, "Failed", "the run was cancelled", published=state.published)
        elif not self.run.spec.suspend:
            try:
                work = self._work(node, name, item)
                if node.step.publish is not None:
                    self.publish(self, node, state, work)
                else:
                    self._begin(node, work, state)
            except Unresolved as error:
                self.end(name, "Failed", str(error), **self.kept(state))

    def _work(self, node: Node, name: str, item: Any) -> Work:
        own, document = node.runnable.own(node.document), self.values.fanned_in(node.document)
        if node.runnable.resource == PIPELINE_RUN and self.run.spec.force_rerun:
            document = {**document, "forceRerun": True}

        def value(reference: Reference) -> Any:
            return self.values.resolve(reference, item)

        def digest(reference: Reference) -> Any:
            return self.values.resolve(reference, item, digests=True)

        spec, identity = filled(document, value, own), filled(document, digest, own)
        if node.runnable.resource in (TRAINING_JOB, SWEEP):
            spec, identity = pinned(spec, identity, self.version_of, self.numbers)
        return Work(name, node.step, node.runnable, spec, identity)

    def version_of(self, reference: str) -> DatasetPin | NotReady:
        """Return the version of a dataset: that with which the run began, or the one of this moment."""
        return look_up(self.numbers.get(reference, reference), self.seen)

    def _begin(self, node: Node, work: Work, state: StepStatus) -> None:
        """Begin a step's work, or create its object again if it was deleted."""
        key, parts, miss = state.key, dict[str, str](), ""
        record: CacheRecord | None = None
        if node.step.cache and not node.is_final:  # a mail is sent after each run
            answer = self._looked_up(work)
            if answer is None:
                return
            key, parts, miss, record = answer.key, dict(answer.parts), answer.miss, answer.record
        name, other = self._object(work, key, state.attempt)
        is_own = other is not None and controller_uid(other) == self.run.uid
        if record is not None and not is_own:  # an own one ended before the status had its name
            origin = CachedFrom(run=record.run, job=record.job)
            kind = work.runnable.made.kind
            outputs = recorded_outputs(kind, record.outputs)
            self.end(work.name, "Succeeded", key=key, kind=kind, cached=origin, outputs=outputs, metrics=record.metrics)
            return
        if other is not None and not is_own and key:
            owner = (other["metadata"].get("ownerReferences") or [{}])[0].get("name", "")
            self.put(
                work.name,
                "Waiting",
                f"run {owner} does the same work in {name}",
                key=key,
                miss_reason=state.miss_reason,
            )
            return
        self.apply.append(child_of(self.run, work, name, key, parts, self.seen.platform))
        self.put(
            work.name,
            "Running",
            child=name,
            kind=work.runnable.made.kind,
            key=key,
            miss_reason=(state.miss_reason or miss)[:MAX_MESSAGE],
            attempt=state.attempt,
            start_time=state.start_time or timestamp(self.now),
        )

    def _object(self, work: Work, key: str, attempt: int) -> tuple[str, Manifest | None]:
        """Return the name for the object of an attempt, and the object that has this name: an own one, or a hindrance.

        Another run hinders while it does the same work. Without a key, any other owner of the name does.
        """
        number, left = 0, attempt
        while True:
            name = child_name(self.run, work, key, number)
            other = self.seen.look(work.runnable.made.kind, name)
            if other is None or (not key and controller_uid(other) != self.run.uid):
                return name, other
            if controller_uid(other) == self.run.uid:
                if not left:
                    return name, other
                left -= 1
            elif (other.get("status") or {}).get("state") not in ENDED_RUNS and not self.run.spec.force_rerun:
                return name, other
            number += 1

    def _looked_up(self, work: Work) -> CacheAnswer | None:
        """Return what the cache has for a step's work; None while the storage is asked, or does not answer."""
        parts = parts_of(work, self.seen)
        if parts.problem:
            return CacheAnswer("", (), miss=parts.problem)
        question = LookUpStep(
            self.seen.platform.storage_bucket,
            self.run.namespace,
            pipeline_of(self.run),
            work.name,
            tuple(parts.values.items()),
            tuple(parts.contents.items()),
            reuses=not self.run.spec.force_rerun,
        )
        answer = self.answer(question) if len(self.asked) < MAX_LOOK_UPS else None
        if answer is None:
            self.look_again(timedelta())
        if isinstance(answer, UltramarineError) and may_pass(answer):
            self.look_again(RETRY)
            kept = self.kept(self.states[work.name])
            self.put(work.name, "Waiting", f"the cache cannot be read: {answer.message}", **kept)
            return None
        if isinstance(answer, UltramarineError):
            return CacheAnswer("", (), miss=answer.message)
        return None if answer is None else reusable(answer, work.runnable, work.spec, self.seen.look)

    def answer(self, question: Question) -> Any:
        """Ask a question; return its answer, if the storage has given one."""
        self.asked.append(question)
        return self.seen.answers.get(question)

    def _follow(self, node: Node, state: StepStatus, child: Manifest) -> None:
        """Follow an object that exists."""
        step = node.step
        # Of an object that has ended the mirror gives an outline.
        whole_child = child if "spec" in child else self.seen.look(child["kind"], child["metadata"]["name"]) or child
        word = (whole_child.get("status") or {}).get("state")
        if word == "Succeeded":
            self.end(
                state.name,
                "Succeeded",
                **self.kept(state),
                outputs=results.outputs_of(whole_child),
                metrics=results.metrics_of(whole_child),
            )
        elif word in ("Failed", "Stopped", "Invalid"):
            message = failure_of(whole_child)
            if state.attempt < step.retries and not self.run.spec.cancel:
                self.put(state.name, "Waiting", message, attempt=state.attempt + 1, start_time=state.start_time)
                self.after = timedelta()
            else:
                self.end(state.name, "Failed", message, **self.kept(state))
        elif self.run.spec.cancel and not node.is_final:
            self.delete.append(Ref.to(node.runnable.made, whole_child))
            self.end(state.name, "Failed", "the run was cancelled", **self.kept(state))
        elif (left := self.left(step, state)) is not None and left <= timedelta():
            self.delete.append(Ref.to(node.runnable.made, whole_child))
            words = f"not finished within timeoutSeconds={step.timeout_seconds}"
            self.end(state.name, "Failed", words, **self.kept(state))
        else:
            self.look_again(left)
            if bool(whole_child["spec"].get("suspend")) != self.run.spec.suspend:
                self.apply.append(edited(self.run, whole_child, suspend=self.run.spec.suspend))

    def left(self, step: Step, state: StepStatus) -> timedelta | None:
        """Return the time until a step has to end; None without a limit."""
        if step.timeout_seconds is None or state.start_time is None or self.run.spec.suspend:
            return None
        return timedelta(seconds=step.timeout_seconds) - (self.now - parse_timestamp(state.start_time))

    # ---- States

    @staticmethod
    def kept(state: StepStatus) -> dict[str, Any]:
        """Return the fields of a state that its end keeps."""
        kept = ("child", "kind", "attempt", "start_time", "key", "miss_reason", "items", "published", "partitions")
        return {name: value for name in kept if (value := getattr(state, name))}

    def put(self, name: str, state: StepState, message: str = "", **fields: Any) -> None:
        """Set the state of a step, without fields that are empty."""
        kept = {"message": message[:MAX_MESSAGE], **fields}
        self.states[name] = StepStatus(
            name=name, state=state, **{field: value for field, value in kept.items() if value}
        )

    def end(self, name: str, state: StepState, message: str = "", **fields: Any) -> None:
        """End a step, or a repetition, of which less is kept so that 1,000 of them fit into a run."""
        if name not in self.steps:
            message, fields = results.shortened(message, fields)
        self.put(name, state, message, completion_time=timestamp(self.now), **fields)
        if state == "Failed":
            self.failed.append(name)

    def look_again(self, after: timedelta | None) -> None:
        """Ask for another pass after that time, if it is not None."""
        if after is not None:
            self.after = min(self.after, after) if self.after is not None else after
