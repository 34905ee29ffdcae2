"""How the engine takes turns: beside a backlog, as a standby, and after an error that nobody expected."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import pytest
from builders import NOW, PLATFORM, child, endpoint, ours, read, seen, training_job, version
from prometheus_client import REGISTRY
from pydantic import ValidationError
from ultramarine.resources.base import Failure
from ultramarine_contract.meta import JOB, MODEL, MODEL_VERSION, SERVICE, TRAINING_JOB, Key, Manifest, Resource
from ultramarine_operator.engine.engine import Engine, _end
from ultramarine_operator.engine.mirror import Mirror
from ultramarine_operator.engine.queue import FIRST_BACKOFF
from ultramarine_operator.engine.reconcile import ASKS
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.model.plan import plan_model
from ultramarine_operator.kube.apply import with_hash
from ultramarine_operator.kube.client import ApiError
from ultramarine_operator.shared.plan import Obj, Plan, Seen
from ultramarine_operator.shared.questions import Clients, Question

COUNT = 500


@dataclass
class Held:
    """A Lease that is ours until it is lost."""

    lost: asyncio.Event
    held: bool = True

    async def keep(self) -> None:
        """Return when it is lost."""
        await self.lost.wait()
        self.held = False


def model(number: int) -> Manifest:
    """A Model whose status says already what its plan will say: a pass over it writes nothing."""
    found = ours("Model", f"m-{number}", {})
    return {**found, "status": plan_model(read(found), seen(), NOW).status}


@pytest.fixture
def engine() -> Engine:
    """An engine that holds its Lease, and has nobody to write to."""
    nobody: Any = None
    lease: Any = Held(asyncio.Event())
    return Engine(KINDS, (None,), Mirror(KINDS), nobody, nobody, PLATFORM, lease)


async def led(engine: Engine, until: Any) -> int:
    """Lead until `until` holds; how often something else had its turn meanwhile."""
    leading = asyncio.create_task(engine._lead())
    turns = 0
    while not until():
        turns += 1
        await asyncio.sleep(0)
    await _end([leading])
    return turns


def test_ends_are_counted_from_0_in_a_namespace_that_is_seen(engine):
    """An operator of the whole cluster learns of namespaces by their objects, before a first one of them ends."""
    engine.tell(TRAINING_JOB, ours("TrainingJob", "a", {}, namespace="team-new"))
    labels = {"kind": "TrainingJob", "object_namespace": "team-new", "outcome": "Failed"}

    assert REGISTRY.get_sample_value("ultramarine_finished_total", labels) == 0


async def test_a_backlog_leaves_turns_to_the_lease_and_the_probes(engine):
    """Passes that write nothing wait for nothing; between any two of them everything else gets its turn."""
    for number in range(COUNT):
        engine.tell(MODEL, model(number))
    turns = await led(engine, lambda: engine._done is not None and engine.queue.depth == 0)

    assert turns >= COUNT / 16, "sixteen workers, each of which gives way after each pass"


async def test_a_standby_collects_no_work_and_a_leader_looks_at_everything(engine):
    """What happens while another replica leads is not queued; who begins to lead looks at all that there is."""
    for number in range(COUNT):
        engine.tell(MODEL, model(number))
    engine.tell(MODEL, model(0), deleted=True)
    assert engine.queue.depth == 0
    looked: list[Key] = []
    reconcile = engine._reconciler.reconcile

    async def noted(key: Key) -> Any:
        looked.append(key)
        return await reconcile(key)

    engine._reconciler.reconcile = noted
    await led(engine, lambda: len(looked) >= COUNT - 1)

    assert sorted(looked) == sorted(Key("Model", "team-a", f"m-{number}") for number in range(1, COUNT))
    assert engine.queue.depth == 0, "and whose turn it was not is forgotten again"


async def test_an_error_in_the_telling_of_an_error_ends_no_worker(engine, monkeypatch):
    """Each of many keys whose pass fails in a way that nobody thought of is tried, and no worker is lost."""
    tried = set()

    async def broken(key: Key) -> None:
        tried.add(key)
        raise RuntimeError("unthought of")

    monkeypatch.setattr(engine, "_pass", broken)
    for number in range(40):
        engine.tell(MODEL, model(number))
    await led(engine, lambda: len(tried) == 40)


async def test_a_pass_that_only_asks_does_not_end_a_row_of_failures(engine):
    """Where each try has to ask first, it is held back for longer and longer all the same."""
    key, tries = Key("Model", "team-a", "churn"), 0

    async def asks_then_fails(key: Key) -> Any:
        nonlocal tries
        tries += 1
        if tries % 2:
            return timedelta(0), ASKS  # as if the answer rang at once
        raise ApiError(409, "Conflict", "the object has been modified")

    engine._reconciler.reconcile = asks_then_fails
    engine.tell(MODEL, model(0))
    for _ in range(3):
        await engine._pass(key)
        await engine._pass(key)

    assert engine.queue.backoff(key) == pytest.approx(8 * FIRST_BACKOFF)


@dataclass
class Answers:
    """Answers to what the engine asks and writes."""

    found: Manifest | ApiError
    made: list[str] = field(default_factory=list)

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest:
        """What is there, or the error."""
        if isinstance(self.found, ApiError):
            raise self.found
        return self.found

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Remember what was made."""
        self.made.append(manifest["kind"])
        return {**manifest, "metadata": {**manifest["metadata"], "uid": "1", "resourceVersion": "99"}}

    async def apply(self, resource: Resource, manifest: Manifest, *, force: bool, subresource: str) -> Manifest:
        """Take a status."""
        return {**ours("Model", "churn", {}), "status": manifest["status"]}


@pytest.mark.attack(
    "author/outdated-view",
    asset="files in the storage",
    threat="an outdated view of the cluster takes a living version for deleted",
    control="the API server is asked before, and must say that the version is not there",
)
@pytest.mark.parametrize(
    ("found", "made"),
    [
        (ApiError(404, "NotFound", 'modelversions.ultramarine.dev "churn-1" not found'), 1),
        (ApiError(404, "Not Found", "404 page not found"), 0),
        (ApiError(403, "Forbidden", "not allowed"), 0),
        (version(1), 0),
    ],
)
async def test_an_artifact_is_not_deleted_on_the_word_of_the_mirror(engine, found, made):
    """The API server has to say that the version is not there; that it knows no such type is another thing."""
    place = "s3://lake/team-a/trainingjobs/churn/0a-1b/model/0123456789abcdef/"
    left = {"artifacts": [{"version": "1", "uri": place, "deleting": True}]}
    engine.tell(MODEL, {**ours("Model", "churn", {"deletionPolicy": "Delete"}), "status": left})
    client: Any = Answers(found)
    engine._reconciler._client = client
    with contextlib.suppress(ApiError):
        await engine._reconciler.reconcile(Key("Model", "team-a", "churn"))

    assert client.made.count("Job") == made


@dataclass
class Taken(Answers):
    """A server on which every name is taken already."""

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Count, and refuse."""
        self.made.append(manifest["kind"])
        raise ApiError(409, "AlreadyExists", "it exists")


async def test_a_child_whose_event_is_late_is_made_once(engine):
    """The answer to a create that finds its name taken by our own child tells the mirror what no event told yet."""
    owner = endpoint()
    wanted = child("Service", owner.name, owner)
    client: Any = Taken(with_hash(wanted))
    engine._reconciler._client = client
    key = Key("OnlineEndpoint", owner.namespace, owner.name)
    for _ in range(3):
        known = engine._mirror.children(key)
        await engine._reconciler._apply(key, wanted, next(iter(known), None))

    assert client.made == ["Service"]
    assert engine._mirror.versions(SERVICE, owner.namespace).keys() == {(owner.namespace, owner.name)}


@dataclass
class Gone(Answers):
    """A server on which the object is gone, while the watch says nothing of it."""

    async def apply(self, resource: Resource, manifest: Manifest, *, force: bool, subresource: str) -> Manifest:
        """Refuse the status."""
        raise ApiError(404, "NotFound", 'trainingjobs.ultramarine.dev "churn" not found')


async def test_an_object_whose_end_no_event_tells_yet_gets_its_children_once(engine):
    """The garbage collector deletes them again at once, which rings the object; its next pass makes no others."""
    owner = training_job()
    key = Key("TrainingJob", owner.namespace, owner.name)
    engine.tell(TRAINING_JOB, owner.manifest)
    gone = ApiError(404, "NotFound", 'trainingjobs.ultramarine.dev "churn" not found')
    client: Any = Gone(gone)
    reconciler = engine._reconciler
    reconciler._client = client
    for _ in range(3):
        await reconciler.reconcile(key)
        for child_of_it in engine._mirror.children(key):
            engine.tell(JOB, child_of_it, deleted=True)

    assert client.made.count("Job") == 1
    assert engine._mirror.get(key) is None


def rung(engine: Engine, manifest: Manifest, resource: Resource) -> set[str]:
    """Which objects an event rings, by kind and name."""
    engine._leading = True
    engine.queue.clear()
    engine.tell(resource, manifest)
    return {f"{key.kind}/{key.name}" for key in engine.queue._due}


def test_versions_are_rung_by_edits_of_their_model_alone(engine):
    """Trust and aliases concern each version; the counts in the Model's status, which each new one changes, do not."""
    engine.tell(MODEL_VERSION, version(1))
    one = ours("Model", "churn", {})
    counted = {**one, "metadata": {**one["metadata"], "resourceVersion": "11"}, "status": {"versions": 1}}
    edited = {**counted, "metadata": {**counted["metadata"], "resourceVersion": "12", "generation": 2}}

    assert "ModelVersion/churn-1" in rung(engine, one, MODEL)
    assert "ModelVersion/churn-1" not in rung(engine, counted, MODEL)
    assert "ModelVersion/churn-1" in rung(engine, edited, MODEL)


async def test_a_plan_that_overflows_a_status_is_a_bug_of_the_operator(engine):
    """The object's author did nothing wrong: the pass is tried again, and the spec stays accepted."""
    reconciler, key = engine._reconciler, Key("Model", "team-a", "m-0")

    def overflows(*_: object) -> Any:
        Failure(reason="x" * 257)

    reconciler._kinds["Model"] = replace(reconciler._kinds["Model"], plan=overflows)
    engine.tell(MODEL, model(0))
    with pytest.raises(ValidationError):
        await reconciler.reconcile(key)


async def test_old_answers_are_not_kept_for_later_questions(engine):
    """A pass that asks nothing drops its answers, and who begins to lead drops all."""
    key, gone = (Key("Model", "team-a", name) for name in ("m-0", "gone"))
    answers = engine._inquiries._answers
    engine.tell(MODEL, model(0))
    answers |= {key: {}, gone: {}}
    await engine._reconciler.reconcile(key)
    assert answers == {gone: {}}

    await led(engine, lambda: engine._done is not None)
    assert answers == {}


@dataclass(frozen=True)
class Asked(Question):
    """A question whose answer is its own text."""

    text: str

    @property
    def source(self) -> str:
        return "test"

    async def ask(self, clients: Clients) -> str:
        return self.text


async def test_questions_that_follow_from_answers_are_answered_in_one_pass(engine):
    """The plan is made when a look asks for nothing more; it has all answers, which are forgotten then."""
    reconciler, key, nobody = engine._reconciler, Key("Model", "team-a", "m-0"), cast("Any", None)
    engine._inquiries._clients = Clients(nobody, nobody, nobody, nobody)
    plans: list[list[str]] = []

    def questions(_: object, seen: Seen) -> tuple[Question, ...]:
        return (Asked("list"), *(Asked(f"entry of {text}") for text in seen.answers.values() if text == "list"))

    def plan(obj: Obj[Any], seen: Seen, _: object) -> Plan:
        plans.append(sorted(seen.answers.values()))
        return Plan(dict(obj.status))

    reconciler._kinds["Model"] = replace(reconciler._kinds["Model"], plan=plan, questions=questions)
    engine.tell(MODEL, model(0))
    while not plans:
        await reconciler.reconcile(key)
        await asyncio.sleep(0)
    assert plans == [["entry of list", "list"]]
    assert engine._inquiries.so_far(key) == {}
