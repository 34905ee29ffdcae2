"""The promises of a reliable operator, each a test over all lives; see docs/reliability.md.

Each one drives the same three things: faults in the proxy, hands in the world, and the oracle that knows how the
undisturbed life ends. Promises 15 and 16 (upgrades, hours of churn) are proven on the whole cluster.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import oracle
import pytest
from builders import training
from materials import LIVES, MATERIALS
from process import SPEED
from proxy import Call, Fault
from rig import Disturbance, Outcome, Rig, Run, together
from ultramarine_contract.meta import Manifest, controller_uid
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.model.testing.samples import version
from ultramarine_operator.shared.testing import Life, no_story, until_state
from world import World

ALWAYS = 10**9
# A listing each second of ours, at SPEED.
OFTEN = {
    "ultramarine_operator.engine.engine:RELIST_SECONDS": 1 * SPEED,
    "ultramarine_operator.engine.engine:SECOND_LISTING_SECONDS": 1 * SPEED,
}
NEVER = dict.fromkeys(OFTEN, 1e9)
# What only a running pod tells, and nobody who did not see it.
UNSEEN = (".status.provenance", ".status.attempt", ".status.logs", ".status.pod:", "not started", "Deadline")
# What a job remembers of pods that were deleted by hand.
REMEMBERED = (".status.attempt", ".status.activeSeconds", ".status.logs")
EDITS = {kind: material.edit for kind, material in MATERIALS.items()}
SERVING = [life for life in LIVES if life.kind == "OnlineEndpoint"]
COMPILED = "serves what was compiled"
TRAINING = [life for life in LIVES if life.kind == "TrainingJob"]
DATA = [life for life in LIVES if life.name in ("gets a profile", "imports its source")]
COMPOSED = [life for life in LIVES if life.kind in ("PipelineRun", "Schedule")]
CHILDREN = sorted({child.plural for kind in KINDS for child in kind.children})


def named(name: str) -> Life:
    """A life by its name, with its kind before it where lives of several kinds have that name."""
    (life,) = [life for life in LIVES if name in (life.name, str(life))]
    return life


async def live(rig: Rig, life: Life, faults: Iterable[Fault] = (), check_fired: bool = True, **how: Any) -> Outcome:
    """Live one life under faults, to the end that it has without them; the faults must have come to pass."""
    faults = tuple(faults)
    outcome = await rig.run(life, faults, calm=await rig.calm(life), **how)
    assert not check_fired or not faults or outcome.fired, f"{life}: no fault came to pass\n{outcome.history}"
    killing = faults and outcome.fired and all(fault.do.startswith("kill") for fault in faults)
    assert not killing or "operator killed" in outcome.history, f"{life}: nobody was killed\n{outcome.history}"
    return outcome


async def everywhere(
    rig: Rig, faults: Iterable[Fault] = (), lives: Iterable[Life] = LIVES, **how: Any
) -> list[Outcome]:
    """Live all lives, or those of the sample, under the same faults."""
    return await together(functools.partial(live, rig, life, tuple(faults), **how) for life in rig.some(lives))


def test_every_kind_has_lives() -> None:
    """Each kind lives; some lives have edits refused, and some are edited if the spec can be."""
    for kind, material in MATERIALS.items():
        assert material.lives, f"{kind} has no life"
        assert not material.edit or any(life.edits for life in material.lives), f"no life of {kind} is edited"
        assert any(life.refused for life in material.lives), f"no edit of {kind} is refused"


async def every_write(
    rig: Rig, faults: Iterable[Fault], lives: Sequence[Life] = LIVES, *, each: int = 1, **how: Any
) -> list[Outcome]:
    """Live each life once for each of its writes, with a fault at that one; `faults` take turns.

    With `each` above 1 only one write in so many has it, and lives begin at different ones. Of a life in the sample one
    write has it.
    """
    runs = []
    lives = rig.some(lives)
    calms = await together(functools.partial(rig.calm, life) for life in lives)
    for place, (life, calm) in enumerate(zip(lives, calms, strict=True)):
        numbers = range(1 + place % each, calm.writes + 1, each)
        cases = zip(numbers, itertools.cycle(faults), strict=False)
        for number, fault in rig.sample.of(cases, str(life))[: 1 if rig.sample.runs else None]:
            at = replace(fault, verb="write", nth=number)
            # Two writes that come together are sometimes one, and one that an edit overtakes is refused and done again:
            # the last numbers may not be reached.
            sure = number < calm.writes - max(3, calm.writes // 5)
            runs.append(functools.partial(live, rig, life, [at], check_fired=sure, **how))
    return await together(runs)


KILLS = (Fault("kill-before"), Fault("kill-after"))


async def test_01_killed_after_any_write(rig: Rig) -> None:
    """Killed at any one of its writes, before it or when it was done, the operator makes nothing twice, and goes on.

    Here at each third write; a restart takes its time.
    """
    await every_write(rig, KILLS, each=3)


@pytest.mark.long
@pytest.mark.parametrize("kill", KILLS, ids=str)
async def test_01_killed_both_before_and_after_every_write(rig: Rig, kill: Fault) -> None:
    """The same, with both ways to die at every single write."""
    await every_write(rig, [kill])


async def test_02_result_stored_but_status_lost(rig: Rig) -> None:
    """If the result is stored, but the answer to each later write is lost, there is one version."""
    await every_write(rig, [Fault("lose")], [named("TrainingJob succeeds"), named("is retried")])


async def registered_once(rig: Rig, life: str, versions: str, breaks: str = "") -> None:
    """If the version was created, but answer and event are late, no second version is created."""
    faults = [Fault("lose", "create", versions), Fault("hold", "", versions, seconds=1)]
    await live(rig, named(life), faults, breaks=breaks)


@pytest.mark.parametrize(
    ("life", "versions"), [("TrainingJob succeeds", "modelversions"), ("Dataset is written", "datasetversions")]
)
async def test_02_registered_but_not_known(rig: Rig, life: str, versions: str) -> None:
    """A version whose making nobody told of is found by its number."""
    await registered_once(rig, life, versions)


@pytest.mark.long
async def test_02_any_answer_lost(rig: Rig) -> None:
    """The answer to any one write of any life may be lost."""
    await every_write(rig, [Fault("lose")])


async def resynced(rig: Rig, lives: Iterable[Life] = LIVES, breaks: str = "") -> None:
    """If no watch reports a changed pod or a deletion, a resync discovers it."""
    lost = [Fault("drop", "MODIFIED", "pods", times=ALWAYS), Fault("drop", "DELETED", times=ALWAYS)]
    await everywhere(rig, lost, lives, check_fired=False, breaks=breaks, but=UNSEEN)


async def test_03_events_that_never_arrive(rig: Rig) -> None:
    """Every life converges within the resync interval where the events that matter are lost."""
    await resynced(rig)


async def test_03_deaf(rig: Rig) -> None:
    """If watches report nothing at all, the resyncs alone carry every life to its end."""
    await everywhere(rig, [Fault("drop", times=ALWAYS)], constants=OFTEN, but=UNSEEN)


async def _there_and_back(run: Run) -> None:
    """While the operator is down, the spec goes from A to B and to A again."""
    await run.quiet()
    await run.down()
    for before in list(run.world.objects.values()):
        if before["kind"] in EDITS:
            await run.world.replace({**before, "spec": {**before["spec"], **EDITS[before["kind"]]}})
            await run.world.replace(before)
    run.up()


async def _born_again(run: Run) -> None:
    """While the operator is down, everything is deleted and applied again under its name."""
    await run.quiet()
    await run.down()
    old = {found["metadata"]["uid"] for found in run.world.objects.values()}
    mine = [found for found in run.world.objects.values() if found["kind"] in EDITS]
    run.meant |= run.world.objects.keys()
    for found in mine:
        await run.world.delete(found["kind"], found["metadata"]["name"])
    await run.world.until("they are gone", lambda: not any(run.world.get(*run.world.id(found)) for found in mine))
    await run.world.apply(*run.life.manifests)
    run.up()
    live = run.world.objects
    await run.world.until(
        "the old ones' children are gone",
        lambda: not any(controller_uid(found) in old for found in live.values() if found["kind"] != "Pod"),
    )


@pytest.mark.parametrize("disturb", [_there_and_back, _born_again])
async def test_04_changed_while_the_operator_is_down(rig: Rig, disturb: Disturbance) -> None:
    """A spec that went from A to B and back, and an object that was made anew, are handled as they are."""
    await everywhere(rig, disturb=disturb)


async def unmoved(rig: Rig, fault: Fault, lives: Iterable[Life] = LIVES, breaks: str = "") -> None:
    """An outdated event changes nothing, and no status goes back."""
    worlds: list[World] = []

    async def disturb(run: Run) -> None:
        worlds.append(run.world)

    constants = NEVER if fault == ECHO else OFTEN  # with a listing now and then, any echo would be put right
    await everywhere(rig, [fault], lives, constants=constants, breaks=breaks, disturb=disturb)
    back = [line for world in worlds for line in oracle.regressions(world.sights)]
    assert not back, "\n".join(back)


async def test_05_stale_lists(rig: Rig) -> None:
    """Listings from the past delete no live child."""
    await unmoved(rig, Fault("stale", "list", nth=2, times=60))


async def spared(rig: Rig, breaks: str = "") -> None:
    """An object whose predecessor's time is over, and whose making nobody told of, is not taken for it."""

    async def story(world: World) -> None:
        job = world.get("TrainingJob", "churn")
        assert job is not None, "a newer object was deleted in place of an older one"

    async def disturb(run: Run) -> None:
        run.world.decide("churn", "fails")
        await until_state(run.world, "TrainingJob", "churn", "Failed")
        await run.quiet()
        run.api.faults += (Fault("drop", "", "trainingjobs", times=ALWAYS),)
        run.meant |= run.world.objects.keys()
        run.world.decide("churn", "runs")
        await run.world.delete("TrainingJob", "churn")
        await run.world.until("it is gone", lambda: not run.world.objects)
        assert not deleted(run), "its time was over before there was a newer one"
        await run.world.apply(*run.life.manifests)
        end = time.monotonic() + 90
        while not deleted(run):
            assert time.monotonic() < end, "it was not deleted when its time was over"
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # for the watch to tell of it

    def deleted(run: Run) -> list[Call]:
        """Return the TrainingJobs that it tried to delete, with or without success."""
        return [call for call in run.writes if (call.verb, call.resource) == ("delete", "trainingjobs")]

    # A listing would tell of the newer object; it comes when all is over.
    late = {
        "ultramarine_operator.engine.engine:RELIST_SECONDS": 600.0,
        "ultramarine_operator.engine.engine:SECOND_LISTING_SECONDS": 30 * SPEED,
    }
    # It is deleted and made again before its time is over, also on a busy machine.
    job = training("churn", backoffLimit=0, ttlSecondsAfterFinished=12)
    life = Life("is created again", (job,), story, kind="TrainingJob")
    await rig.run(life, disturb=disturb, constants=late, breaks=breaks)


async def test_05_a_newer_object_is_spared(rig: Rig) -> None:
    """A delete that was decided about an object that is gone does not hit the one that has its name now."""
    await spared(rig)


async def test_05_stale_watches(rig: Rig) -> None:
    """Events that come twice, late and in the wrong order delete no live child."""
    await everywhere(rig, [Fault("twice", nth=1, times=20), Fault("swap", nth=21, times=20)])


ECHO = Fault("echo", times=ALWAYS)


async def test_05_echoes(rig: Rig) -> None:
    """After each event the one before it of the same object comes again, and nothing is taken for newer than it is."""
    await unmoved(rig, ECHO)


async def test_06_a_pass_before_its_child_shows(rig: Rig) -> None:
    """Children that are made, whose answers are lost and whose events are late, are found by name, not made again."""
    late = [Fault("hold", "", child, times=6, seconds=0.5) for child in CHILDREN]
    lost = [Fault("lose", "write", child, times=2) for child in CHILDREN]
    await everywhere(rig, [*late, *lost], lives=TRAINING + SERVING + DATA + COMPOSED, but=UNSEEN)


async def test_07_an_edit_that_changes_nothing(rig: Rig) -> None:
    """An edit of what no child depends on, and the same manifest applied again, lead to no write of a child."""

    async def disturb(run: Run) -> None:
        await run.quiet()
        before = len(run.api.writes)
        await run.world.apply(*run.life.manifests)
        for found in list(run.world.objects.values()):
            if found["kind"] in EDITS:
                await run.world.edit(*run.world.id(found), {"metadata": {"labels": {"colour": "red"}}})
                await run.world.edit(*run.world.id(found), {"metadata": {"labels": {"colour": None}}})
        await run.quiet()
        assert run.api.writes[before:] == []

    await everywhere(rig, disturb=disturb)


async def test_07_each_property_changed_once(rig: Rig) -> None:
    """After a change of any one property that may be changed, all is as if the new spec had been applied at first."""
    changes = rig.sample.of(CHANGES, kind=lambda change: change[0].kind)
    await together(functools.partial(_changed, rig, life, edit) for life, edit in changes)


CHANGES = [(life, edit) for life in LIVES for edit in life.edits]


async def _changed(rig: Rig, base: Life, edit: Manifest) -> None:
    kind, name = base.kind, base.subject
    changed = tuple(
        {**m, "spec": {**m["spec"], **edit}} if (m["kind"], m["metadata"]["name"]) == (kind, name) else m
        for m in base.manifests
    )
    fresh = await rig.run(replace(base, name=f"with {edit}", manifests=changed, story=no_story))

    async def disturb(run: Run) -> None:
        await run.quiet()
        assert run.world.get(kind, name) is not None
        await run.world.edit(kind, name, {"spec": edit})
        run.meant |= {("Deployment", "shop-blue"), ("PodDisruptionBudget", "shop-blue")}

    # What once was leaves traces that are no difference: a generated Secret stays, and so do conditions that were.
    await rig.run(
        replace(base, name=f"changed to {edit}", story=no_story),
        disturb=disturb,
        calm=fresh,
        but=("Secret/shop-keys", ".status.pod", ".status.startTime", *REMEMBERED, *UNSEEN),
    )


async def test_08_troubles_that_are_mended(rig: Rig) -> None:
    """A bad image, too much memory and a missing Secret are told by a condition; what is mended goes on by itself."""
    told = [named("is repaired"), named("waits for its artifact"), named("gets its image")]
    # What a trouble says must not depend on having seen it begin.
    await everywhere(rig, [Fault("kill-after", "patch", "trainingjobs/status", nth=4)], told[:1])
    await everywhere(rig, lives=told)


REFUSED = [(life, patch, words) for life in LIVES for patch, words in life.refused]


async def test_09_refused_at_admission(rig: Rig) -> None:
    """Numbers out of range, traffic that is not 100 and immutable edits are refused with words; the life goes on."""

    def refused(life: Life, patch: Manifest, words: str) -> Disturbance:
        async def disturb(run: Run) -> None:
            await run.quiet()
            with pytest.raises(RuntimeError, match=words):
                await run.world.edit(life.kind, life.subject, {"spec": patch})

        return disturb

    await together(
        functools.partial(live, rig, life, disturb=refused(life, patch, words))
        for life, patch, words in rig.sample.of(REFUSED, kind=lambda refusal: refusal[0].kind)
    )


async def test_10_poison(rig: Rig) -> None:
    """Nonsense in labels, annotations and statuses, of objects and of children, heals or is left; the life goes on."""

    async def disturb(run: Run) -> None:
        await run.quiet()
        for kind, name in list(run.world.objects):
            if kind in EDITS:
                nonsense = {"conditions": [], "state": "\U0001f4a5", "latestVersion": "nonsense", "traffic": None}
                await run.world.edit(kind, name, {"status": nonsense}, "status")
            elif kind in ("Job", "Deployment", "Service", "ConfigMap"):
                notes = {"ultramarine.dev/applied": "][", "ultramarine.dev/model-version": "\U0001f4a5"}
                await run.world.edit(kind, name, {"metadata": {"annotations": notes}})
                labels = {"ultramarine.dev/kind": "Nonsense", "ultramarine.dev/name": ""}
                await run.world.edit(kind, name, {"metadata": {"labels": labels}})
        await run.quiet()  # a child that loses its labels and its place in the spec at once is nobody's

    # What others add to our children stays; and a Job that has done its work is not mended.
    done = ("churn", "churn-1-compile", "churn-2-compile", "tools-build-1")
    left = (".metadata.annotations", *(f"Job/{name} at .metadata.labels" for name in done))
    await everywhere(rig, disturb=disturb, but=left)


def _deleted_by_hand(*kinds: str) -> Disturbance:
    """Delete each object of these kinds, and wait until it is back and all is as before."""

    async def disturb(run: Run) -> None:
        await run.quiet()
        before = run.end()
        for kind, name in [id for id in run.world.objects if id[0] in kinds]:
            run.meant.add((kind, name))
            gone = run.world.objects[kind, name]["metadata"]["uid"]
            await run.world.delete(kind, name)
            await run.world.until(
                f"{kind} {name} is back",
                lambda kind=kind, name=name, gone=gone: (
                    (run.world.get(kind, name) or {"metadata": {"uid": gone}})["metadata"]["uid"] != gone
                ),
            )

        def left() -> list[str]:
            lines = oracle.difference(run.end(), before)
            return [line for line in lines if not any(words in line for words in REMEMBERED)]

        await run.world.until("all is as before", lambda: not left())
        await run.quiet()
        assert left() == []

    return disturb


async def test_11_children_deleted_by_hand(rig: Rig) -> None:
    """Each child that is deleted by hand comes back, and the life goes on."""
    lives = [
        named("TrainingJob succeeds"),
        named("is suspended and resumed"),
        named("finds the best"),
        named("is steered"),
    ]
    lives += [named("has a job for each trial"), named("holds its trials and is deleted")]
    lives += [life for life in SERVING if life.name != COMPILED]  # a model is compiled once
    disturb = _deleted_by_hand("Job", "Deployment", "Service", "ConfigMap")
    await everywhere(rig, disturb=disturb, lives=lives, but=REMEMBERED)


async def test_11_children_of_composites_deleted_by_hand(rig: Rig) -> None:
    """Jobs of steps, imports and profiles come back while they are needed, as does the Pipeline that a run has kept."""
    names = ("PipelineRun succeeds", "follows a pipeline", "runs twenty steps", "gets a profile", "imports its source")
    disturb = _deleted_by_hand("TrainingJob", "ControllerRevision")
    await everywhere(rig, disturb=disturb, lives=[named(name) for name in names], but=REMEMBERED)


async def test_11_a_foreign_webhook_is_no_fight(rig: Rig) -> None:
    """If an admission policy changes children at each write, they are written a few times, not endlessly."""
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "foreign"},
        "spec": {
            "reinvocationPolicy": "Never",
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"foreign": "true"}},
                "resourceRules": [
                    {
                        "apiGroups": ["", "apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["deployments", "services"],
                    }
                ],
            },
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {
                        "expression": "Object{metadata: Object.metadata{annotations: "
                        "{'ultramarine.dev/applied': 'foreign'}}}"
                    },
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "foreign"},
        "spec": {"policyName": "foreign"},
    }
    group = "/apis/admissionregistration.k8s.io/v1"
    await rig.api.ask("POST", f"{group}/mutatingadmissionpolicies", policy)
    await rig.api.ask("POST", f"{group}/mutatingadmissionpolicybindings", binding)

    async def disturb(run: Run) -> None:
        mark = {"metadata": {"labels": {"foreign": "true"}}}
        path = f"/api/v1/namespaces/{run.world.namespace}"
        await rig.api.ask("PATCH", path, mark, "application/merge-patch+json")
        await run.world.until("the Deployment is there", lambda: run.world.all("Deployment"))
        end = time.monotonic() + 60  # until the policy is in force
        while True:
            for kind, name in [id for id in run.world.objects if id[0] in ("Deployment", "Service")]:
                await run.world.edit(kind, name, {"metadata": {"labels": {"touched": str(time.monotonic())}}})
            notes = [d["metadata"].get("annotations", {}) for d in run.world.all("Deployment")]
            if any(n.get("ultramarine.dev/applied") == "foreign" for n in notes):
                break
            assert time.monotonic() < end, "the policy changes nothing"
            await asyncio.sleep(0.3)
        before = len(run.api.writes)
        await asyncio.sleep(3)  # half a minute of the operator's
        assert len(run.api.writes) - before < 30, run.history

    try:
        await rig.run(named("is scaled"), disturb=disturb)
    finally:
        await rig.api.ask("DELETE", f"{group}/mutatingadmissionpolicybindings/foreign")
        await rig.api.ask("DELETE", f"{group}/mutatingadmissionpolicies/foreign")


async def test_12_removed_while_the_operator_is_gone(rig: Rig) -> None:
    """If the operator was uninstalled first, everything can be deleted, at once and without a trace."""

    async def disturb(run: Run) -> None:
        await run.quiet()
        await run.down()
        run.meant |= run.world.objects.keys()
        for kind, name in list(run.world.objects):
            if kind in EDITS:
                await run.world.delete(kind, name)
        await run.world.until("everything is gone", lambda: not run.world.objects)
        run.world.sights.clear()
        await run.world.apply(*run.life.manifests)
        run.up()

    await everywhere(rig, disturb=disturb)


DOWN = (Fault("hang", seconds=3, times=6), Fault("answer", code=503, times=12))


@pytest.mark.parametrize("fault", DOWN, ids=str)
async def test_12_storage_down(rig: Rig, fault: Fault) -> None:
    """If the object storage hangs or refuses, objects that need it wait, and reach their end after its return."""
    asking = [named("waits for its artifact"), named("TrainingJob succeeds"), named("follows its alias")]
    asking += [named("waits for its file"), named("gets a profile"), named("imports its source")]
    await everywhere(rig, lives=asking, storage=[fault])


async def test_12_storage_hangs_and_others_go_on(rig: Rig) -> None:
    """While the storage hangs, and many objects wait for it, a training that does not need it is not held up."""

    async def story(world: World) -> None:
        await world.apply(*(version(number) for number in range(1, 41)))
        started = time.monotonic()
        await world.apply(*named("TrainingJob succeeds").manifests)
        await until_state(world, "TrainingJob", "churn", "Running")
        assert time.monotonic() - started < 15, "held up: the first question to the storage ends after 16 s"

    life = Life("forty that wait", (version(99),), story, kind="ModelVersion")
    await rig.run(life, storage=[Fault("hang", seconds=300, times=ALWAYS)])


ANSWERS = [
    Fault("answer", "write", nth=2, times=3, code=409),
    Fault("answer", nth=5, times=10, code=429, seconds=1),
    Fault("answer", "write", nth=3, times=5, code=500),
    Fault("answer", "", nth=8, times=20, code=503),
    Fault("answer", "list", nth=14, times=8, code=410),
    Fault("answer", "watch", times=8, code=410),
    Fault("error", nth=3, times=4, code=410),
    Fault("error", nth=3, times=4, code=500),
    Fault("error", nth=3, times=4, code=403),
    Fault("cut", nth=2, times=8),
    Fault("hang", "write", nth=4, seconds=10),
]


async def test_13_any_write_refused_once(rig: Rig) -> None:
    """A conflict, a server error or too many requests at any one write only delays what is to be done."""
    refusals = [Fault("answer", code=409), Fault("answer", code=500), Fault("answer", code=429, seconds=1)]
    await every_write(
        rig, refusals, [named("TrainingJob succeeds"), named("waits for its artifact"), named("turns its traffic")]
    )


@pytest.mark.long
@pytest.mark.parametrize("code", [409, 429, 500, 503])
async def test_13_every_write_refused_once(rig: Rig, code: int) -> None:
    """The same for all lives and each answer."""
    await every_write(rig, [Fault("answer", code=code)])


async def tried_again(rig: Rig, fault: Fault, breaks: str = "") -> None:
    """A request that the API server refused for a while is repeated later."""
    lives = [named("TrainingJob succeeds"), named("Model moves its aliases"), named("turns its traffic")]
    await everywhere(rig, [fault], lives, check_fired=False, breaks=breaks)


@pytest.mark.parametrize("fault", ANSWERS, ids=str)
async def test_13_errors_of_the_api(rig: Rig, fault: Fault) -> None:
    """After 429, 500, 503, 409, 410, errors in watches, cut watches and requests without an answer, work goes on."""
    await tried_again(rig, fault)


@pytest.mark.long
@pytest.mark.parametrize("fault", ANSWERS, ids=str)
async def test_13_errors_of_the_api_in_all_lives(rig: Rig, fault: Fault) -> None:
    """The same for all lives."""
    await everywhere(rig, [fault], check_fired=False)


@pytest.mark.parametrize("minutes", [2, pytest.param(10, marks=pytest.mark.long)])
async def test_13_the_api_is_away(rig: Rig, minutes: int) -> None:
    """Minutes without an API server, by the operator's clock, which runs fast: no storm when it is back."""

    async def disturb(run: Run) -> None:
        await run.quiet()
        await run.api.away(minutes * 60 / SPEED)
        asked = len(run.api.calls)
        await asyncio.sleep(1)
        assert len(run.api.calls) - asked < 150, run.history

    await live(rig, named("turns its traffic"), disturb=disturb)


async def test_13_a_token_that_stays_refused_is_no_storm(rig: Rig) -> None:
    """While the API server answers every watch with 401, it is not asked without a pause, and listings do the work."""
    asked = 0

    async def disturb(run: Run) -> None:
        nonlocal asked
        before = len(run.api.calls) + len(run.api.fired)
        await asyncio.sleep(3)  # fifteen seconds of the operator's clock
        asked = len(run.api.calls) + len(run.api.fired) - before

    await live(rig, named("TrainingJob succeeds"), [Fault("answer", "watch", times=10_000, code=401)], disturb=disturb)

    types = len({*CHILDREN, *(kind.resource.plural for kind in KINDS)})
    assert asked < 40 * types, "no more than a few times a second for each type"


async def killed(leader: Run) -> None:
    await leader.down()


async def stopped(leader: Run) -> None:
    leader.held = leader.killed = True
    assert leader.operator is not None
    await asyncio.to_thread(leader.operator.stop)


async def cannot_renew(leader: Run) -> None:
    leader.api.faults += (Fault("hang", "update", "leases", times=ALWAYS, seconds=60),)


async def frozen(leader: Run) -> None:
    assert leader.operator is not None
    await asyncio.to_thread(leader.operator.pause, 50 / SPEED)


async def one_writes(rig: Rig, end: Disturbance, breaks: str = "") -> None:
    """Two operators, of which the leader comes to that end, never write by turns."""
    runs: list[Run] = []

    async def disturb(run: Run) -> None:
        await run.quiet()
        runs.extend(run.all)
        writers = [each for each in run.all if each.api.writes]
        assert len(writers) == 1, "both write"
        [leader], [other] = writers, [each for each in run.all if each not in writers]
        ending = asyncio.create_task(end(leader))
        # People go on meanwhile, so that both have something to write.
        for found in list(run.world.objects.values()):
            if found["kind"] in EDITS:
                await run.world.replace({**found, "spec": {**found["spec"], **EDITS[found["kind"]]}})
                await run.world.replace(found)
        await run.world.until("the other one leads", lambda: _holder(run) == other.identity)
        await ending
        leader.up()

    # Twice what it is: on a busy machine a renewal comes late, and the lead would change hands without that end.
    real = {"ultramarine_operator.engine.lease:DURATION": 30.0}
    await live(rig, named("follows its alias"), disturb=disturb, operators=2, constants=real, breaks=breaks)
    written = sorted((at, each.identity) for each in runs for at, call in each.api.calls if call.is_write)
    turns = [who for who, _ in itertools.groupby(who for _, who in written)]
    assert len(turns) == 2, f"they took turns: {turns}"


@pytest.mark.parametrize("end", [killed, stopped, cannot_renew, frozen])
async def test_14_two_operators(rig: Rig, end: Disturbance) -> None:
    """Of two operators one writes; when it is dead, gone, cut off or frozen the other takes over; they never mix."""
    await one_writes(rig, end)


def _holder(run: Run) -> str:
    return str(run.world.renewals[-1].manifest["spec"].get("holderIdentity") if run.world.renewals else "")
