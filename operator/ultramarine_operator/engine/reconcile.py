"""One pass for one object: look, plan, apply, write the status once, then tell."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from ultramarine.resources.base import READY, UNSEEN, Failure, RunStatus
from ultramarine_contract.errors import Conflict, InvalidSpec, NotYet, Refused, UltramarineError
from ultramarine_contract.meta import CONFIG_MAP, SECRET, Key, Manifest, Resource

from ..kube import events
from ..kube.apply import apply_child, write_status
from ..kube.client import ApiError, Client
from ..shared import refusals, states
from ..shared.conditions import Condition, find, health, is_true, merge
from ..shared.kind import Kind
from ..shared.plan import Edit, Event, GenerateSecret, Lazily, Obj, Plan, Platform, Seen
from ..shared.statuses import cut
from .accounting import Accounting
from .inquiries import Inquiries
from .mirror import Mirror
from .reports import Reports

log = logging.getLogger(__name__)

OK, HELD, ASKS = "ok", "held", "asks"  # all of the plan was done; a part waits; no plan before there are answers
REFUSED = InvalidSpec.reason
NOT_READY = {("Running", "False"), ("Ready", "False")}
RETRY_SOON = timedelta(seconds=2)
RETRY_LATER = timedelta(seconds=30)


class Reconciler:
    """Brings one object after another to what its plan says."""

    def __init__(
        self,
        kinds: Iterable[Kind],
        mirror: Mirror,
        tell: Callable[[Resource, Manifest, Key | None], None],
        client: Client,
        inquiries: Inquiries,
        reports: Reports,
        platform: Platform,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._resources = {r.kind: r for kind in self._kinds.values() for r in (*kind.children, *kind.creates)}
        self._mirror = mirror
        self._tell = tell  # takes in an answer of the server, and rings all keys that it concerns except the given one
        self._client = client
        self._inquiries = inquiries
        self._reports = reports
        self._platform = platform
        self._clock = clock
        self.notice: Callable[[Manifest], None] = lambda _: None  # called with each object that a pass sees or writes
        self.lose: Callable[[Resource, Manifest], None] = mirror.drop  # called with an object that the server lacks
        self.accounting = Accounting(platform)

    async def reconcile(self, key: Key) -> tuple[timedelta | None, str]:
        """Do one pass; return when to look again (None: at the next ring), and what became of it: OK, HELD or ASKS."""
        kind = self._kinds[key.kind]
        manifest = self._mirror.get(key)
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            self._inquiries.forget(key)
            self._reports.forget(key)
            return None, OK  # its children carry an owner reference: Kubernetes collects them
        self.notice(manifest)
        now = self._clock()
        try:
            obj = Obj(manifest, kind.spec.model_validate(manifest.get("spec") or {}))
        except ValidationError as error:
            return await self._refuse(key, manifest, _first_error(error), now), OK
        try:
            seen = self._look(kind, key, obj)
            if seen is None:
                return None, ASKS
            plan = kind.plan(obj, seen, now)
        except InvalidSpec as error:
            return await self._refuse(key, manifest, error.message, now), OK
        try:
            await self._act(key, plan, seen.children)
        except (NotYet, Conflict, Refused) as error:
            status = self._held(plan, error, manifest, now)
            again = RETRY_SOON if isinstance(error, NotYet) else RETRY_LATER
            warnings = () if isinstance(error, NotYet) else (Event(error.reason, error.message, "Warning"),)
            held = Plan(status=status, events=(*plan.events, *warnings), after=again)
            return await self._finish(manifest, held, seen.children, now), HELD
        return await self._finish(manifest, plan, seen.children, now), OK

    def reply(self, key: Key, report: Any) -> Manifest | None:
        """Return the reply to a pod's report; None if the object is gone or its spec is invalid."""
        kind, manifest = self._kinds[key.kind], self._mirror.get(key)
        if manifest is None or kind.report is None:
            return None
        try:
            obj = Obj(manifest, kind.spec.model_validate(manifest.get("spec") or {}))
        except ValidationError:
            return None
        return kind.report.reply(obj, report, lambda of, name: self._mirror.get(Key(of, key.namespace, name)))

    def _look(self, kind: Kind, key: Key, obj: Obj[Any]) -> Seen | None:
        """Gather what is to be known; None while the storage is asked, after whose answer the key is rung."""

        def related() -> tuple[Manifest, ...]:
            return tuple(
                manifest
                for resource in kind.related
                for name in self._mirror.about(resource, obj.namespace, kind.topics(obj.manifest))
                if (manifest := self._mirror.get(Key(resource.kind, obj.namespace, name))) is not None
            )

        children = self._mirror.children(key)
        report = self._reports.latest(key, children)
        seen = Seen(
            self._platform,
            children,
            Lazily(related),
            report=report,
            look=lambda of, name: self._mirror.get(Key(of, key.namespace, name)),
        )
        questions = kind.questions(obj, replace(seen, answers=self._inquiries.so_far(key)))
        if not questions:
            self._inquiries.forget(key)  # an answer that no pass has used gets old
            return seen
        answers = self._inquiries.answers(key, questions)
        return None if answers is None else replace(seen, answers=answers)

    async def _act(self, key: Key, plan: Plan, children: Iterable[Manifest]) -> None:
        for missing in plan.absent:
            await self._confirm_absent(missing)
        for ref in plan.delete:
            try:
                await self._client.delete(ref)
            except ApiError as error:
                if error.code not in (404, 409):  # gone already, or changed: the next pass decides again
                    raise
        for effect in plan.effects:
            await self._effect(key, effect)
        live = {(child["kind"], child["metadata"]["name"]): child for child in children}
        held: UltramarineError | None = None
        for child in plan.apply:
            try:
                await self._apply(key, child, live.get((child["kind"], child["metadata"]["name"])))
            except (NotYet, Conflict, Refused) as error:
                if child["kind"] == CONFIG_MAP.kind:
                    raise  # the next children mount it by name, and would get another owner's
                held = held or error  # the other children are written
        if held is not None:
            raise held
        taken: ApiError | None = None
        for manifest in plan.create:
            taken = await self._create(key, manifest) or taken
        if taken is not None:
            raise taken  # by another client, or by an earlier pass that the mirror does not show yet
        for edit in plan.edits:
            await self._edit(edit)

    async def _confirm_absent(self, key: Key) -> None:
        resource = self._kinds[key.kind].resource
        try:
            present = await self._client.get(resource, key.namespace, key.name)
        except ApiError as error:
            if _is_gone(error):
                return
            raise
        self._tell(resource, present, None)
        raise NotYet(f"{key} was not seen, but is there; it is looked at again", "MirrorBehind")

    async def _apply(self, key: Key, child: Manifest, live: Manifest | None) -> None:
        resource = self._resources[child["kind"]]
        try:
            answer = await apply_child(self._client, resource, child, live)
        except ApiError as error:
            raise _refused(child, error) from error
        if answer is not None:
            # The answer also has changes by others since the mirror's copy, which the watch does not repeat. The same
            # holds for a child without its label. Only a child that has just been created brings no change.
            fresh = live is None and not any((answer.get("status") or {}).values())
            self._tell(resource, answer, key if fresh else None)

    async def _create(self, key: Key, manifest: Manifest) -> ApiError | None:
        """Create an object; returned is the error where its name is taken."""
        resource = self._resources[manifest["kind"]]
        try:
            self._tell(resource, await self._client.create(resource, manifest), key)
        except ApiError as error:
            if error.code != 409 or error.reason != "AlreadyExists":
                raise _refused(manifest, error) from error
            return error
        return None

    async def _edit(self, edit: Edit) -> None:
        """Change a user's object; a pass that sees a later state of it decides again."""
        operation = {"op": "add", "path": edit.path, "value": edit.value}
        try:
            answer = await self._client.patch(edit.ref, [operation])
        except ApiError as error:
            what = f"{edit.ref.resource.kind} {edit.ref.name}"
            if error.code in (404, 409):
                raise NotYet(f"{what} was changed by another client just now", "ObjectChanged") from error
            if error.code in (400, 403, 422):
                raise Refused(f"{what} cannot be changed: {error.message}", error.reason) from error
            raise
        self._tell(edit.ref.resource, answer, None)

    async def _effect(self, key: Key, effect: GenerateSecret) -> None:
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": effect.metadata,
            "type": "Opaque",
            "stringData": {key: secrets.token_urlsafe(32) for key in effect.keys},
        }
        try:
            await self._client.create(SECRET, manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":  # a quota that is being counted is a 409 as well
                raise _refused(manifest, error) from error
            return
        owner = self._mirror.get(key)
        if effect.event is not None and owner is not None:
            await self._record(owner, effect.event, self._clock())

    async def _record(self, manifest: Manifest, event: Event, now: datetime) -> None:
        try:
            await events.record(self._client, manifest, event, now)
        except ApiError as error:  # an event is not worth a second pass
            log.warning(
                "%s: event %s not written: %s", self._kinds[manifest["kind"]].key(manifest), event.reason, error
            )

    async def _finish(
        self, manifest: Manifest, plan: Plan, children: Iterable[Manifest], now: datetime
    ) -> timedelta | None:
        kind = self._kinds[manifest["kind"]]
        status, refresh = self.accounting.completed(kind, manifest, plan.status, children, now)
        if status != (manifest.get("status") or {}):
            try:
                answer = await write_status(self._client, kind.resource, manifest, status)
            except ApiError as error:
                if _is_gone(error):
                    # Its event may be late, and each pass until then would make children.
                    self.lose(kind.resource, manifest)
                if error.code == 404:  # or its whole type has gone
                    return None
                raise  # 409 too: it was created again, or the server lost a race of its own; the next pass shows which
            # Edited since the mirror's copy: the answer shows it, and the watch does not repeat it.
            edited = answer["metadata"].get("generation") != manifest["metadata"].get("generation")
            self.notice(answer)
            self._tell(kind.resource, answer, None if edited else kind.key(manifest))
            self.accounting.count(kind, manifest, status)
            for event in plan.events:
                await self._record(manifest, event, now)
        return min((delay for delay in (plan.after, refresh) if delay is not None), default=None)

    async def _refuse(self, key: Key, manifest: Manifest, message: str, now: datetime) -> timedelta | None:
        return await self._finish(manifest, self._invalid(manifest, message, now), self._mirror.children(key), now)

    def _invalid(self, manifest: Manifest, message: str, now: datetime) -> Plan:
        status: Manifest = dict(manifest.get("status") or {})
        model = self._kinds[manifest["kind"]].status
        ends = health(done=False, failed=message)
        if issubclass(model, RunStatus):
            if states.is_over(status):
                return Plan(status)  # another release's rules change no result
            # A spec that can never run has failed: whoever waits for its end waits no longer.
            _, ends = states.failed(REFUSED, message)
            status["failure"] = cut(Failure, reason=REFUSED, message=message)
        elif (find(status, READY) or UNSEEN).get("reason") in (REFUSED, UNSEEN["reason"]):
            ends = (Condition("Ready", False, REFUSED, message), *ends)  # what served before goes on
        if "state" in model.model_fields:
            status["state"] = "Invalid"
        generation = int(manifest["metadata"].get("generation", 0))
        news = (Condition("Accepted", False, REFUSED, message), *ends)
        former = find(status, "Accepted")
        before = [condition for condition in status.get("conditions") or [] if isinstance(condition, dict)]
        replaced = {condition.type for condition in news} | {"Reconciled", "Reconciling"}
        kept = () if issubclass(model, RunStatus) else (c for c in before if c.get("type") not in replaced)
        status["conditions"] = [*merge(before, news, generation, now), *kept]
        status["observedGeneration"] = generation
        is_new = former is None or former.get("message") != message
        return Plan(status, events=(Event(REFUSED, message, "Warning"),) if is_new else ())

    def _held(self, plan: Plan, error: UltramarineError, manifest: Manifest, now: datetime) -> Manifest:
        """The planned status with one condition more, which says what keeps the plan from being carried out.

        An error that only a user can correct is also the reason why the object is not ready.
        """
        generation = int(manifest["metadata"].get("generation", 0))
        former = manifest.get("status") or {}
        # An effect that may not have happened must be planned again by the next pass.
        shown = {effect.shown_in for effect in plan.effects}
        planned = {name: value for name, value in plan.status.items() if name not in shown}
        planned |= {name: former[name] for name in shown if name in former}
        reconciled = Condition("Reconciled", False, error.reason, error.message)
        news = merge(former.get("conditions") or [], (reconciled,), generation, now)
        conditions = planned.get("conditions", [])
        if not isinstance(error, NotYet) and is_true(planned, "Reconciling"):
            why = {"reason": error.reason, "message": error.message}
            conditions = [c | why if (c["type"], c["status"]) in NOT_READY else c for c in conditions]
        return {**planned, "conditions": [*conditions, *news]}


def _is_gone(error: ApiError) -> bool:
    """True if the object does not exist; without its whole type the server has other words."""
    return error.code == 404 and error.reason == "NotFound"


def _refused(manifest: Manifest, error: ApiError) -> Exception:
    """Return the error for the pass: Refused for a refusal that lasts, or the error itself if it may pass."""
    if error.code not in (400, 403, 413, 422):
        return error
    words = refusals.refused(error.message) if "exceeded quota: " in error.message else error.message
    return Refused(f"{manifest['kind']} {manifest['metadata']['name']} is not admitted: {words}", error.reason)


def _first_error(error: ValidationError) -> str:
    """Name the field and the fault of the first error; the API server's schema lets few come here."""
    first: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in ("spec", *first["loc"]))
    return f"{place}: {str(first['msg']).removeprefix('Value error, ')}"
