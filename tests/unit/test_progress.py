"""Taking in the progress that training pods post: over a real socket, with a review by hand instead of a cluster's."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from builders import child, endpoint, job, ours, pod, read, searching, sweep_job, sweep_pod
from msgspec.structs import replace
from ultramarine_contract.common import PROGRESS_AUDIENCE
from ultramarine_contract.meta import (
    DEPLOYMENT,
    JOB,
    ONLINE_ENDPOINT,
    POD,
    SWEEP,
    TRAINING_JOB,
    Key,
    Manifest,
    child_labels,
    child_metadata,
)
from ultramarine_contract.sweep_records import BestTrial, SweepSummary, WantedTrial
from ultramarine_contract.training_records import CheckpointRecord, Progress
from ultramarine_operator.engine.mirror import Mirror
from ultramarine_operator.engine.reports import ACCEPT_SECONDS, RING_SECONDS, URGENT_SECONDS, Reports
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kube.client import ApiError
from ultramarine_operator.progress import BODY_LIMIT, CACHE_SECONDS, REVIEWS, Reception
from ultramarine_operator.shared.kind import Kind
from ultramarine_operator.shared.pods import INDEX
from ultramarine_operator.shared.reporting import Reporting

SAVED = CheckpointRecord("s3://lake/team-a/churn/checkpoints/ab/", "sha256:ab", "2030-01-01T12:00:00Z")
PROGRESS = Progress(
    step=7,
    total_steps=10,
    percent=70,
    eta_seconds=30,
    metrics={"loss": 0.5},
    checkpoint=SAVED,
)
CHURN = Key("TrainingJob", "team-a", "churn")
TOKEN = "aa.bb.cc"


def pod_of(owner: Manifest, name: str, **meta: Any) -> Manifest:
    """A pod of the Job of a TrainingJob, as Kubernetes makes it."""
    found = pod(read(owner), name)
    made = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["metadata"]["name"], "controller": True}
    reference = {**made, "uid": job(read(owner))["metadata"]["uid"]}
    found["metadata"] |= {"uid": f"{name}-uid", "resourceVersion": "10", "ownerReferences": [reference], **meta}
    return found


def review_of(name: str, namespace: str = "team-a", **status: Any) -> Manifest:
    """What the API server says of a pod's token."""
    extra = {
        f"authentication.kubernetes.io/pod-{word}": [value] for word, value in (("name", name), ("uid", f"{name}-uid"))
    }
    user = {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}
    return {"status": {"authenticated": True, "audiences": [PROGRESS_AUDIENCE], "user": user, **status}}


class World:
    """A mirror with the job `churn`, its pod and what it posts; who asks is what `reviews` says of the token."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.leads = True
        self.rung: list[tuple[Key, float]] = []
        self.asked: list[tuple[str, str]] = []
        self.reviews: dict[str, Manifest | ApiError] = {TOKEN: review_of("churn-0-a")}
        self.mirror = Mirror(KINDS)
        self.reports = Reports(self.mirror, KINDS, lambda key, after: self.rung.append((key, after)), lambda: self.now)
        self.reception = Reception(
            self.review, self.reports, lambda: self.leads, lambda key, report: self.answer, lambda: self.now
        )
        self.answer: Manifest | None = None
        self.url = ""
        self.client: Any = None
        self.add("churn", "churn-0-a")

    def add(self, name: str, pod_name: str, **meta: Any) -> None:
        """A TrainingJob with its Job and a pod."""
        owner = ours("TrainingJob", name, {"command": ["true"]})
        made = job(read(owner))
        made["metadata"] |= child_metadata(owner, name)
        self.mirror.put(TRAINING_JOB, owner)
        self.mirror.put(JOB, made)
        self.mirror.put(POD, pod_of(owner, pod_name, **meta))

    def add_sweep(self, name: str, **pods: str) -> None:
        """A Sweep with its two Jobs, and a pod of that name for each of those that are given."""
        owner = ours("Sweep", name, searching(name)["spec"])
        self.mirror.put(SWEEP, owner)
        for which in ("coordinator", "workers"):
            made = sweep_job(read(owner), which)
            made["metadata"] |= child_metadata(owner, f"{name}-{which}")
            self.mirror.put(JOB, made)
            if pod_name := pods.get(which):
                found = sweep_pod(read(owner), which)
                job = {"apiVersion": "batch/v1", "kind": "Job", "name": made["metadata"]["name"], "controller": True}
                found["metadata"] |= {
                    "name": pod_name,
                    "uid": f"{pod_name}-uid",
                    "resourceVersion": "10",
                    "ownerReferences": [{**job, "uid": made["metadata"]["uid"]}],
                }
                self.mirror.put(POD, found)
                self.reviews[f"{which}.b.c"] = review_of(pod_name)

    async def post_summary(self, which: str, body: bytes, name: str = "hpo") -> tuple[int, str]:
        """Post on a Sweep as the pod of that Job of its; the answer's code and words."""
        headers = {"Authorization": f"Bearer {which}.b.c"}
        async with self.client.post(f"{self.url}/sweeps/team-a/{name}", data=body, headers=headers) as answer:
            return answer.status, (await answer.json())["error"] if answer.status != 204 else ""

    async def review(self, token: str, audience: str) -> Manifest:
        """The answer to a TokenReview."""
        self.asked.append((token, audience))
        answer = self.reviews.get(token, {"status": {"authenticated": False, "error": "expired"}})
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def post(
        self, body: bytes = PROGRESS.to_json(), token: str = TOKEN, name: str = "churn", **headers: str
    ) -> tuple[int, str, Any]:
        """Post a report; the answer's code, its words, and its headers."""
        headers = {"Authorization": f"Bearer {token}"} | headers
        async with self.client.post(f"{self.url}/progress/team-a/{name}", data=body, headers=headers) as answer:
            words = (await answer.json())["error"] if answer.status != 204 else await answer.text()
            return answer.status, words, answer.headers

    async def get(self, name: str, token: str = TOKEN) -> tuple[int, Any]:
        """Ask what the operator knows of the pod that the token is from."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.get(f"{self.url}/progress/team-a/{name}", headers=headers) as answer:
            return answer.status, await answer.json()

    def latest(self) -> Progress | None:
        """What a pass over the job is told."""
        return self.reports.latest(CHURN, self.mirror.children(CHURN))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """The reception behind a socket of loopback."""
    found = World()
    app = web.Application(client_max_size=BODY_LIMIT)
    app.add_routes(found.reception.routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as found.client:
        yield found
    await runner.cleanup()


async def test_a_report_is_taken_and_its_job_looked_at(world):
    """What the pod of a job posts is what the next pass is told, and that pass comes at once."""
    assert (await world.post())[0] == 204
    assert world.latest() == PROGRESS
    assert world.rung == [(CHURN, 0.0)]
    assert world.asked == [(TOKEN, PROGRESS_AUDIENCE)]


async def test_a_pod_learns_what_image_it_runs(world):
    """A pod that asks is told the digest that its node resolved, by its own token and for its own job alone."""
    statuses = [{"name": "trainer", "imageID": "registry/train@sha256:feed"}]
    young = Key(POD.kind, "team-a", "churn-0-a")
    assert await world.get("churn") == (200, {"image": ""})
    found = world.mirror.get(young)
    found["metadata"]["resourceVersion"] = "11"
    world.mirror.put(POD, {**found, "status": {"containerStatuses": statuses}})

    assert await world.get("churn") == (200, {"image": "registry/train@sha256:feed"})
    world.add("other", "other-0-a")
    code, answer = await world.get("other")
    assert (code, "not to TrainingJob team-a/other" in answer["error"]) == (403, True)
    assert (await world.get("churn", token="no.good.token"))[0] == 401


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"step": "7"}',
        b'{"step": true}',
        b'{"percent": 101}',
        b'{"metrics": {"a": NaN}}',
        b'{"checkpoint": 7}',
        b"\xff",
        b'{"step": 1e400}',
        Progress(metrics={f"m{n}": 1.0 for n in range(21)}).to_json(),
        Progress(metrics={"m" * 64: 1.0}).to_json(),
        Progress(metrics={"\x1b[31mloss": 1.0}).to_json(),
        replace(PROGRESS, checkpoint=replace(SAVED, step=10**300)).to_json(),
        replace(PROGRESS, checkpoint=replace(SAVED, productive_seconds=1e300)).to_json(),
        b"[" * 10_000,
    ],
)
async def test_what_is_no_report_is_refused(world, body):
    """Anything but a Progress that fits into a status is 400, and nothing of it is kept."""
    code, words, _ = await world.post(body)

    assert (code, "TrainingJob team-a/churn" in words) == (400, True)
    assert world.latest() is None


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", "Bearer a b", "Bearer ab", "Bearer a.b"])
async def test_without_a_token_nobody_is_asked(world, header):
    """What cannot be a token is 401, at no cost for the API server."""
    code, words, _ = await world.post(Authorization=header)

    assert (code, world.asked) == (401, [])
    assert "Authorization: Bearer TOKEN" in words


@pytest.mark.attack("training/progress")
@pytest.mark.parametrize(
    "review",
    [
        review_of("churn-0-a", authenticated=False, error="token has expired"),
        review_of("churn-0-a", audiences=[]),
        review_of("churn-0-a", audiences=["https://kubernetes.default.svc"]),
        {},
    ],
)
async def test_a_token_for_somebody_else_is_refused(world, review):
    """One that is expired, or was made for another audience, is 401; asked again each time, since it may come right."""
    world.reviews[TOKEN] = review
    code, words, _ = await world.post()

    assert (code, "read its file again" in words) == (401, True)
    world.reviews[TOKEN] = review_of("churn-0-a")
    assert (await world.post())[0] == 204


@pytest.mark.parametrize(
    "user",
    [
        {},
        {"username": "kubernetes-admin"},
        {"username": "system:serviceaccount:team-a:default", "extra": {}},
        {"username": "team-a:default", "extra": review_of("churn-0-a")["status"]["user"]["extra"]},
    ],
)
async def test_a_token_of_no_pod_is_refused(world, user):
    """A person, and a service account outside a pod, report nothing."""
    world.reviews[TOKEN] = review_of("churn-0-a", user=user)
    code, words, _ = await world.post()

    assert (code, "is not a pod's" in words) == (403, True)


@pytest.mark.attack(
    "training/progress",
    asset="another job's status",
    threat="a pod posts progress for a job that is not its own, or an earlier pod for the one that has taken over",
    control="the API server says which pod a token was given to, and only the newest pod of a job's node 0 is "
    "heard; the token is for the operator alone (an audience of its own), so it opens nothing else",
)
async def test_a_token_opens_its_own_job_only(world):
    """The pod of one job cannot speak for another, neither in its namespace nor from another one."""
    world.add("other", "other-0-a")
    world.reviews |= {"o.o.o": review_of("other-0-a"), "x.x.x": review_of("churn-0-a", "team-b")}

    code, words, _ = await world.post(token="o.o.o")
    assert (code, words.startswith("pod team-a/other-0-a belongs to TrainingJob team-a/other")) == (403, True)
    code, words, _ = await world.post(token="x.x.x")
    assert (code, "pod team-b/churn-0-a belongs to no Sweep or TrainingJob" in words) == (403, True)
    assert world.latest() is None


@pytest.mark.parametrize(
    "strange",
    [
        {"uid": "made-anew"},
        {"ownerReferences": []},
        {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "controller": True, "uid": "another"}]},
        {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Job", "controller": True, "uid": "{job}"}]},
        {"labels": {}},
    ],
)
async def test_a_pod_that_only_looks_like_the_jobs_is_refused(world, strange):
    """Labels alone, owners alone, or the name of a pod that was there before do not make it the job's pod."""
    made = job(read(ours("TrainingJob", "churn", {"command": ["true"]})))["metadata"]["uid"]
    for reference in strange.get("ownerReferences", []):
        reference["uid"] = reference["uid"].format(job=made)
    world.add("churn", "churn-0-a", resourceVersion="11", **strange)

    assert (await world.post())[0] == 403


@pytest.mark.attack("training/progress")
async def test_only_the_newest_pod_of_node_0_is_heard(world):
    """Other nodes do not report, nor does a pod that another one has taken over from; what it said is forgotten."""
    labels = child_labels("TrainingJob", "churn") | {INDEX: "1"}
    world.add("churn", "churn-1-a", labels=labels, creationTimestamp="2031-01-01T00:00:00Z")
    world.reviews |= {"n.1.a": review_of("churn-1-a"), "n.0.b": review_of("churn-0-b")}
    assert (await world.post())[0] == 204
    code, words, _ = await world.post(token="n.1.a")
    assert (code, "only the newest pod of node 0 reports" in words) == (403, True)

    world.add("churn", "churn-0-b", creationTimestamp="2031-01-01T00:00:00Z")
    assert world.latest() is None
    world.now += ACCEPT_SECONDS
    assert (await world.post())[0] == 403
    assert (await world.post(token="n.0.b"))[0] == 204
    assert world.latest() == PROGRESS


@pytest.mark.attack("training/report-flood")
async def test_a_huge_report_is_refused(world):
    """More than 64 KiB is 413, with its length announced or not; who may not report cannot even send it."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 1024 + 1):
            yield b" " * 1024

    for body in (b" " * (BODY_LIMIT + 1), pieces()):
        code, words, _ = await world.post(body)
        assert (code, "report fewer metrics" in words) == (413, True)
    assert (await world.post(b" " * (BODY_LIMIT + 1), token="n.o.t"))[0] == 401


async def test_a_report_that_is_not_packed_as_it_says_is_refused(world):
    """Its sender is told so, and no traceback is logged."""
    code, words, _ = await world.post(**{"Content-Encoding": "gzip"})
    assert (code, "Content-Encoding" in words) == (400, True)


@pytest.mark.attack(
    "training/report-flood",
    asset="the operator, the API server",
    threat="reports without end, huge ones, or tokens made up",
    control="one report a second for each job, ten of a sweep that wants other trials each time, 256 KiB at most, "
    "read only for a pod that may report; at most eight reviews at once",
)
async def test_reports_that_come_too_fast_are_refused(world):
    """One report a second for each job; a status is written for them every ten seconds at most."""
    assert (await world.post())[0] == 204
    code, _, headers = await world.post()
    assert (code, headers["Retry-After"]) == (429, "1")
    for step in range(20):
        world.now += ACCEPT_SECONDS
        assert (await world.post(replace(PROGRESS, step=step).to_json()))[0] == 204

    assert [after for _, after in world.rung] == [0, RING_SECONDS - ACCEPT_SECONDS, RING_SECONDS, RING_SECONDS]
    assert world.latest() == replace(PROGRESS, step=19)


async def test_who_does_not_lead_sends_to_another_replica(world):
    """A standby takes nothing and asks nobody; a leader that loses the Lease over the review takes nothing either."""
    world.leads = False
    code, words, headers = await world.post()
    assert (code, headers["Retry-After"], world.asked) == (503, "1", [])
    assert "by a new connection" in words

    world.leads = True
    review = world.reception._review

    async def slow(token: str, audience: str) -> Manifest:
        world.leads = False
        return await review(token, audience)

    world.reception._review = slow
    assert (await world.post())[0] == 503
    assert world.latest() is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ApiError(0, "Unreachable", "the Kubernetes API did not answer"), "post again later"),
        (ApiError(500, "InternalError", "etcd"), "post again later"),
        (ApiError(403, "Forbidden", "no right"), "progress.enabled grants it"),
    ],
)
async def test_an_api_server_that_does_not_answer_is_said(world, error, said):
    """Nobody is let in unasked: 503, and the next report asks again."""
    world.reviews[TOKEN] = error
    code, words, headers = await world.post()

    assert (code, headers["Retry-After"], said in words) == (503, "10", True)
    world.reviews[TOKEN] = review_of("churn-0-a")
    assert (await world.post())[0] == 204


async def test_a_good_token_is_asked_about_once_a_minute(world):
    """The API server is not asked at each report; after a minute it is, and can say that the pod is gone."""
    await world.post()
    world.now += CACHE_SECONDS - 1
    assert (await world.post())[0] == 204
    assert len(world.asked) == 1
    world.now += 1
    world.reviews[TOKEN] = {"status": {"authenticated": False, "error": "pod not found"}}

    assert (await world.post())[0] == 401
    assert len(world.asked) == 2


async def test_no_more_tokens_are_remembered_than_have_room(world, monkeypatch):
    """The one that was used longest ago is forgotten first, which costs a review and nothing else."""
    monkeypatch.setattr("ultramarine_operator.progress.CACHE_SIZE", 2)
    world.reviews |= {token: review_of("churn-0-a") for token in ("b.b.b", "c.c.c")}
    for token in (TOKEN, "b.b.b", TOKEN, "c.c.c", TOKEN, "b.b.b"):
        world.now += ACCEPT_SECONDS
        assert (await world.post(token=token))[0] == 204

    assert [token for token, _ in world.asked] == [TOKEN, "b.b.b", "c.c.c", "b.b.b"]


@pytest.mark.attack("training/report-flood")
async def test_a_crowd_of_strangers_costs_few_reviews_at_once(world):
    """However many ask, only a few reviews are under way at a time, and all are answered in the end."""
    running, most = 0, 0

    async def slow(token: str, audience: str) -> Manifest:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return {}

    world.reception._review = slow
    codes = [code for code, _, _ in await asyncio.gather(*(world.post(token=f"a.b.{n}") for n in range(50)))]
    assert (codes, most) == ([401] * 50, REVIEWS)


def test_what_is_gone_is_forgotten():
    """Nothing is remembered of a job that is deleted, nor of anything when another lead begins."""
    found = World()
    for forget in (lambda: found.reports.forget(CHURN), found.reports.clear):
        assert found.reports.put(CHURN, "churn-0-a-uid", PROGRESS)
        assert found.latest() == PROGRESS
        forget()
        assert found.latest() is None


HPO = Key("Sweep", "team-a", "hpo")
SUMMARY = SweepSummary(running=2, succeeded=3, best=(BestTrial(1, (0.5,), {"lr": 0.1}),))


async def test_a_coordinator_tells_how_far_its_sweep_is(world):
    """What the coordinator of a sweep posts is what the next pass is told, and passes come every ten seconds."""
    world.add_sweep("hpo", coordinator="hpo-coordinator-a")

    assert await world.post_summary("coordinator", SUMMARY.to_json()) == (204, "")
    assert world.reports.latest(HPO, world.mirror.children(HPO)) == SUMMARY
    world.now += ACCEPT_SECONDS
    assert await world.post_summary("coordinator", replace(SUMMARY, running=1).to_json()) == (204, "")
    assert world.rung == [(HPO, 0.0), (HPO, RING_SECONDS - ACCEPT_SECONDS)]


async def test_a_coordinator_that_wants_other_trials_is_heard_at_once(world):
    """There is a pass at once for it, though one was a moment ago; for as often as ten times a second at most."""
    world.add_sweep("hpo", coordinator="hpo-coordinator-a")
    first, second, third = (replace(SUMMARY, wanted=(WantedTrial(number, {"lr": 0.1}),)) for number in (1, 2, 3))

    assert await world.post_summary("coordinator", first.to_json()) == (204, "")
    world.now += URGENT_SECONDS
    assert await world.post_summary("coordinator", second.to_json()) == (204, "")
    world.now += URGENT_SECONDS / 2
    assert (await world.post_summary("coordinator", third.to_json()))[0] == 429
    world.now += URGENT_SECONDS
    assert (await world.post_summary("coordinator", replace(second, running=1).to_json()))[0] == 429, "nothing new"
    assert world.rung == [(HPO, 0.0), (HPO, 0.0)]
    assert world.reports.latest(HPO, world.mirror.children(HPO)) == second


@pytest.mark.parametrize("news", [{"outcome": "Succeeded", "over": True}, {"paused": (3,)}])
async def test_the_end_of_a_sweep_and_a_pause_are_heard_at_once(world, news):
    """Nobody waits for what Kubernetes says of the coordinator's pod, a second later, or for a place that is free."""
    world.add_sweep("hpo", coordinator="hpo-coordinator-a")
    last = replace(SUMMARY, **news)

    assert await world.post_summary("coordinator", SUMMARY.to_json()) == (204, "")
    world.now += URGENT_SECONDS
    assert await world.post_summary("coordinator", last.to_json()) == (204, "")
    assert world.rung == [(HPO, 0.0), (HPO, 0.0)]
    assert world.reports.latest(HPO, world.mirror.children(HPO)) == last


async def test_what_a_sweep_hears_is_what_its_kind_says(world):
    """The answer is JSON; where there is none, the post is just taken."""
    world.add_sweep("hpo", coordinator="hpo-coordinator-a")
    world.answer = {"parallel": 3, "ended": []}
    headers = {"Authorization": "Bearer coordinator.b.c"}
    url = f"{world.url}/sweeps/team-a/hpo"
    async with world.client.post(url, data=SUMMARY.to_json(), headers=headers) as answer:
        assert (answer.status, await answer.json()) == (200, {"parallel": 3, "ended": []})


@pytest.mark.parametrize("name", ["over", "report"])
def test_yes_and_no_are_all_that_is_understood(name):
    """A summary that says more than that is refused as a whole."""
    document = json.loads(SUMMARY.to_json()) | {name: "yes"}
    with pytest.raises(ValueError, match="not a summary of a sweep: Expected `bool`, got `str`"):
        SweepSummary.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "wanted",
    [
        {"trial": -1},
        {"trial": 1000},
        {"trial": True},
        {"trial": "1"},
        {"params": {}},
        {"trial": 1, "params": {"lr": None}},
        {"trial": 1, "params": {"lr": [1]}},
        {"trial": 1, "params": [1]},
        7,
    ],
)
def test_trials_that_make_no_sense_are_not_wanted(wanted):
    """A summary with one is refused as a whole."""
    document = json.loads(SUMMARY.to_json()) | {"wanted": [wanted]}
    with pytest.raises(ValueError, match="not a summary of a sweep"):
        SweepSummary.from_json(json.dumps(document))


@pytest.mark.parametrize("paused", [[-1], [1000], ["1"], [True], 7])
def test_what_is_no_trial_is_not_paused(paused):
    """A summary that says so is refused as a whole."""
    document = json.loads(SUMMARY.to_json()) | {"paused": paused}
    with pytest.raises(ValueError, match="not a summary of a sweep"):
        SweepSummary.from_json(json.dumps(document))


@pytest.mark.attack(
    "training/sweep-progress",
    asset="a sweep's status",
    threat="a trial says what it likes of its sweep",
    control="only the coordinator's newest pod is heard, known by its Job, and that runs no command of anybody's",
)
async def test_a_worker_does_not_speak_for_its_sweep(world):
    """A worker runs anybody's command: what it posts is refused, on the sweep and on the path of jobs."""
    world.add_sweep("hpo", coordinator="hpo-coordinator-a", workers="hpo-workers-0-a")

    code, words = await world.post_summary("workers", SUMMARY.to_json())
    assert (code, "only the coordinator's newest pod reports" in words) == (403, True)
    code, words, _ = await world.post(token="workers.b.c", name="hpo")
    assert (code, "belongs to Sweep team-a/hpo, not to TrainingJob team-a/hpo" in words) == (403, True)
    assert world.reports.latest(HPO, world.mirror.children(HPO)) is None


async def test_a_job_does_not_speak_for_a_sweep(world):
    """The pod of a TrainingJob reports on that, and on no sweep."""
    world.add_sweep("hpo")
    world.reviews["job.b.c"] = review_of("churn-0-a")

    code, words = await world.post_summary("job", SUMMARY.to_json())
    assert (code, "belongs to TrainingJob team-a/churn" in words) == (403, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"running": -1}',
        b'{"best": [{"trial": 1, "values": [NaN]}]}',
        b'{"best": [{"trial": 1, "values": [1], "outputs": {"model": {"uri": 7, "digest": "", "bytes": 1}}}]}',
    ],
)
async def test_what_is_no_summary_is_refused(world, body):
    """A report on a sweep that a status has no place for is refused, with what is to be posted instead."""
    world.add_sweep("hpo", coordinator="hpo-coordinator-a")

    code, words = await world.post_summary("coordinator", body)
    assert (code, "post what sweep_records.SweepSummary writes" in words) == (400, True)


def reporting_as(path: str, image_of: str = "") -> Reporting:
    """Reports of pods of any sort."""
    return Reporting(path, bytes.decode, "text", lambda name, children: children, "any pod", image_of=image_of)


def with_reports(**reports: Reporting) -> list[Kind]:
    """The kinds, some of which have other reports."""
    return [dataclasses.replace(kind, report=reports.get(kind.name, kind.report)) for kind in KINDS]


def test_pods_of_a_deployment_report_too():
    """A Deployment's pods belong to its ReplicaSet; the image is that of the container that the kind names."""
    kinds = with_reports(OnlineEndpoint=reporting_as("endpoints", "server"))
    mirror, owner = Mirror(kinds), endpoint().manifest
    reports = Reports(mirror, kinds, lambda key, after: None)
    key = Key("OnlineEndpoint", "team-a", "churn")
    mirror.put(ONLINE_ENDPOINT, owner)
    mirror.put(DEPLOYMENT, child("Deployment", "churn-blue", endpoint()))
    for name, replica_set in (("mine", "churn-blue-5d9f"), ("other", "churn-blue-two-5d9f")):
        made = child("Pod", name, endpoint(), {}, {"containerStatuses": [{"name": "server", "imageID": "sha256:feed"}]})
        reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set, "uid": "r", "controller": True}
        mirror.put(POD, {**made, "metadata": {**made["metadata"], "ownerReferences": [reference]}})

    assert reports.owner_of_pod("team-a", "mine", "Pod-mine-uid") == key
    assert reports.owner_of_pod("team-a", "other", "Pod-other-uid") is None
    assert reports.image_of_pod(key, "mine", "Pod-mine-uid") == "sha256:feed"


@pytest.mark.parametrize("path", ["healthz", "readyz", "metrics", "sweeps"])
def test_the_path_of_reports_is_free(path):
    """Two routes of one path would hide each other."""
    kinds = with_reports(Model=reporting_as(path))
    with pytest.raises(ValueError, match=f"path {path} of a kind's reports is taken"):
        Reports(Mirror(kinds), kinds, lambda key, after: None)


async def test_only_pods_of_kinds_that_say_so_ask_for_their_image(world):
    """A Sweep's pods have no need of it."""
    world.add_sweep("hpo", coordinator="hpo-c")
    async with world.client.get(
        f"{world.url}/sweeps/team-a/hpo", headers={"Authorization": "Bearer coordinator.b.c"}
    ) as answer:
        assert answer.status == 405
