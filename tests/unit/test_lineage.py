"""Lineage: what objects tell, and the walk from data to endpoints and back."""

from __future__ import annotations

import json

import pytest
from builders import ours
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent
from openlineage.client.event_v2 import RunState as EventType
from openlineage.client.serde import Serde
from ultramarine.lineage import Lineage, as_text
from ultramarine_contract.lineage import Fact, Part, facts
from ultramarine_contract.lineage_graph import Graph

DIGEST = "sha256:" + "a" * 64
END = "2030-01-01T12:00:00Z"
DATA = "s3://lake/team-a/raw.csv"
MODEL = "s3://lake/team-a/trainingjobs/churn/uid/model/aaaaaaaaaaaaaaaa/"


def job():
    """A TrainingJob that has ended."""
    git = {"url": "https://git.example.com/churn.git"}
    spec = {
        "source": {"git": git},
        "command": ["python", "train.py"],
        "parameters": {"rate": "0.1"},
        "inputs": {"table": {"uri": DATA}},
        "outputs": {"model": {"registerAs": "churn"}},
    }
    status = {
        "state": "Succeeded",
        "completionTime": END,
        "requestedBy": "ada",
        "inputs": {"table": {"digest": DIGEST, "bytes": 7}},
        "outputs": {"model": {"uri": MODEL, "digest": DIGEST}},
        "metrics": {"latest": {"auc": 0.9}},
        "provenance": {"imageDigest": f"registry/trainer@{DIGEST}", "gitCommit": "c0ffee", "environmentUri": ""},
    }
    return ours("TrainingJob", "churn", spec, status)


def version(number=8):
    spec = {"model": "churn", "version": str(number), "uri": MODEL, "digest": DIGEST}
    spec["lineage"] = {"trainingJob": "churn", "gitCommit": "c0ffee"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": END}
    return ours("ModelVersion", f"churn-{number}", spec, {"conditions": [ready]})


def model():
    return ours("Model", "churn", {"aliases": {"champion": "8"}}, {"versions": 1})


def endpoint():
    deployment = {"name": "blue", "modelVersion": "churn-8", "readyReplicas": 1}
    rollout = {"phase": "Promoted", "identity": "abc", "message": "all gates passed"}
    return ours("OnlineEndpoint", "churn", {}, {"deployments": [deployment], "rollout": rollout})


@pytest.fixture
def graph():
    return Graph(fact for manifest in (job(), version(), model(), endpoint()) for fact in facts(manifest))


def steps(some):
    return [(fact.kind, fact.slot) for fact in some]


def test_a_run_tells_what_it_used_and_made():
    """The end of a job names image, code, data with their digests, its outputs, the user, and the metrics."""
    (end,) = facts(job())

    used = {part.name: (part.uri, part.digest) for part in end.used}
    assert used == {
        "image": ("registry/trainer", DIGEST),
        "code": ("git+https://git.example.com/churn.git@c0ffee", ""),
        "table": (DATA, DIGEST),
    }
    assert [part.uri for part in end.made] == ["TrainingJob/churn", MODEL]
    assert (end.value, end.by, end.details["metrics"], end.details["parameters"]) == (
        "Succeeded", "ada", {"auc": 0.9}, {"rate": "0.1"}
    )  # fmt: skip


@pytest.mark.parametrize("phase", ["Promoted", "RolledBack"])
def test_a_rollout_tells_how_it_ended(phase):
    """The end of a rollout names its candidate's version and the reason; a rollout that goes on tells nothing."""
    manifest = endpoint()
    manifest["spec"]["rollout"] = {"candidate": "blue"}
    manifest["status"]["rollout"]["phase"] = phase
    end = facts(manifest)[-1]
    assert (end.slot, end.value, end.details) == ("rollout", f"{phase} abc", {"message": "all gates passed"})
    assert [part.uri for part in (*end.used, *end.made)] == ["ModelVersion/churn-8", "OnlineEndpoint/churn"]
    assert end in Graph(facts(manifest)).consequences("ModelVersion/churn-8")

    manifest["status"]["rollout"]["phase"] = "Progressing"
    assert [fact.slot for fact in facts(manifest)] == ["deployment/blue"]


def test_a_model_comes_from_its_environment():
    """The packages of the run are among its inputs with their digest, and lead to the models made with them."""
    packages = "s3://lake/team-a/environments/tools/packages.tar.zst"
    manifest = job()
    manifest["status"]["provenance"] |= {"environmentUri": packages, "environmentDigest": DIGEST}
    graph = Graph(fact for some in (manifest, version()) for fact in facts(some))

    used = [(part.name, part.digest) for fact in graph.origins("ModelVersion/churn-8") for part in fact.used]
    assert ("environment", DIGEST) in used
    assert [fact.name for fact in graph.consequences(packages)] == ["churn", "churn-8"]


def test_a_sweep_tells_its_best_trial():
    """The end of a Sweep has the command, image and data of its trials, and the outputs of the best one."""
    template = {"image": "registry/trainer", "command": ["python", "train.py"], "inputs": {"table": {"uri": DATA}}}
    best = [{"trial": 3, "values": {"auc": 0.9}, "outputs": {"model": MODEL}}, {"trial": 1, "outputs": {"model": DATA}}]
    status = {"state": "Succeeded", "completionTime": END, "requestedBy": "ada", "best": best}
    status["inputs"] = {"table": {"digest": DIGEST}}
    sweep = ours("Sweep", "tune", {"trialTemplate": {"spec": template}}, status)

    (end,) = facts(sweep)
    assert (end.slot, end.value, end.time, end.by) == ("end", "Succeeded", END, "ada")
    assert end.details["command"] == ["python", "train.py"]
    assert [(part.name, part.uri, part.digest) for part in end.used] == [
        ("image", "registry/trainer", ""),
        ("table", DATA, DIGEST),
    ]
    assert [(part.name, part.uri) for part in end.made] == [("", "Sweep/tune"), ("model", MODEL)]

    registered = version()
    registered["spec"]["lineage"] = {"sweep": "tune"}
    graph = Graph(fact for manifest in (sweep, registered) for fact in facts(manifest))
    assert [fact.kind for fact in graph.origins("ModelVersion/churn-8")] == ["ModelVersion", "Sweep"]


def test_a_version_of_a_dataset_leads_to_endpoints():
    """A run that was pinned to a version of a Dataset used that version, whatever the reference in its spec."""
    manifest = job()
    manifest["spec"]["inputs"] = {"table": {"dataset": "raw@latest"}}
    manifest["status"]["datasets"] = {"table": {"version": "raw-3", "uri": DATA, "digest": DIGEST}}
    graph = Graph(fact for some in (manifest, version(), model(), endpoint()) for fact in facts(some))

    assert [fact.kind for fact in graph.consequences("DatasetVersion/raw-3")] == [
        "TrainingJob",
        "ModelVersion",
        "Model",
        "OnlineEndpoint",
    ]


def test_a_run_tells_who_started_it():
    """A run of a Schedule, of a sweep or of a pipeline leads to that object."""
    owner = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "Schedule", "name": "nightly", "controller": True}
    manifest = job()
    manifest["metadata"]["ownerReferences"] = [owner]

    assert ("Schedule/nightly", "started by") in [(part.uri, part.name) for part in facts(manifest)[0].used]


def pipeline_step(name, run, data=(), made=(), **status):
    """A TrainingJob that a PipelineRun has made, which reads and writes files."""
    owner = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "PipelineRun", "name": run, "controller": True}
    spec = {"command": ["true"], "inputs": {f"in{number}": {"uri": uri} for number, uri in enumerate(data)}}
    outputs = {f"out{number}": {"uri": uri} for number, uri in enumerate(made)}
    ended = {"state": "Succeeded", "completionTime": END, "outputs": outputs, **status}
    return ours("TrainingJob", name, spec, ended, ownerReferences=[owner])


def pipeline_run(name, *steps, **meta):
    """A PipelineRun that has ended, by the states of its steps."""
    pin = {"name": "night", "digest": DIGEST}
    status = {"state": "Succeeded", "completionTime": END, "requestedBy": "ada", "pipeline": pin, "steps": list(steps)}
    return ours("PipelineRun", name, {"pipeline": "night", "parameters": {"rate": 1}}, status, **meta)


@pytest.fixture
def runs():
    """Facts of a Schedule's run, whose step of other data stands beside a reused one of raw data."""
    schedule = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "Schedule", "name": "nightly", "controller": True}
    done = {"state": "Succeeded", "startTime": END, "completionTime": END}
    clean = {"name": "clean", "kind": "TrainingJob", "child": "clean-1", **done}
    fit = {"name": "fit", "kind": "TrainingJob", "child": "fit-1", "missReason": "command is b, and was a", **done}
    reused = {"name": "clean", "kind": "TrainingJob", "cached": {"run": "first", "job": "clean-1"}, **done}
    manifests = (
        pipeline_step("clean-1", "first", [DATA], ["s3://lake/clean/"]),
        pipeline_run("first", clean),
        pipeline_step("fit-1", "second", ["s3://lake/other.csv"], [MODEL]),
        pipeline_run("second", reused, fit, ownerReferences=[schedule]),
    )
    return [fact for manifest in manifests for fact in facts(manifest)]


def test_a_pipelines_run_tells_its_steps(runs):
    """The record of a run has its pipeline, each step with its object, and where a reused result comes from."""
    run = next(fact for fact in runs if fact.name == "second")

    assert [(part.name, part.uri) for part in run.used] == [
        ("pipeline", "Pipeline/night"),
        ("started by", "Schedule/nightly"),
        ("step clean, reused", "TrainingJob/clean-1"),
        ("step fit", "TrainingJob/fit-1"),
    ]
    assert run.details["steps"][1]["missReason"] == "command is b, and was a"
    assert (run.by, run.details["parameters"]) == ("ada", {"rate": 1})


def test_a_reused_result_names_its_sweep():
    """A step's best trial is traced to the Sweep, whatever made the results of other steps."""
    step = {"name": "tune", "state": "Succeeded", "kind": "Sweep", "cached": {"run": "first", "job": "tune-1"}}
    (run,) = facts(pipeline_run("second", step))

    assert [(part.name, part.uri) for part in run.used[1:]] == [("step tune, reused", "Sweep/tune-1")]


def test_steps_of_one_run_do_not_come_from_each_other(runs):
    """Data leads to the runs that used it and not to other steps of these; a model leads to its own data alone."""
    graph = Graph(runs)
    names = [fact.name for fact in graph.consequences(DATA)]
    assert (names[0], sorted(names[1:])) == ("clean-1", ["first", "second"])

    origins = graph.origins(MODEL)
    assert [fact.name for fact in origins] == ["fit-1", "second"]
    assert "fit-1" not in Lineage(DATA, graph, "team-a").tree()
    tree = Lineage(MODEL, graph, "team-a").tree()
    assert "started by: PipelineRun/second" in tree
    assert "clean-1" not in tree


def test_a_schedule_leads_to_what_its_runs_made(runs):
    """Its runs, the jobs that these started, and what came of those."""
    graph = Graph([*runs, *facts(version())])
    assert [fact.name for fact in graph.consequences("Schedule/nightly")] == ["second", "fit-1", "churn-8"]

    tree = Lineage("Schedule/nightly", graph, "team-a").tree()
    assert all(name in tree for name in ("PipelineRun/second", "TrainingJob/fit-1", "ModelVersion/churn-8"))


def dataset_version(number, uri):
    """A version of the Dataset orders, which an import has made."""
    spec = {"dataset": "orders", "version": str(number), "uri": uri, "digest": DIGEST}
    spec["lineage"] = {"trainingJob": f"orders-import-{number}"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": END}
    return ours("DatasetVersion", f"orders-{number}", spec, {"conditions": [ready]})


@pytest.mark.parametrize(
    ("source", "recorded", "is_address"),
    [
        ("s3://lake/crm/a@b.csv", "s3://lake/crm/a@b.csv", True),
        ("https://eve:s3@cret@data.example.com:8443/a.csv?token=secret#x", "https://data.example.com:8443/a.csv", True),
        ("query 5f0c2b7de11a on postgresql://eve:secret@db/crm", "query 5f0c2b7de11a on postgresql://db/crm", False),
        ("upload of orders.csv", "upload of orders.csv", False),
    ],
)
def test_imported_data_tells_its_source(source, recorded, is_address):
    """The record of a version has its source without secrets, and the watermark; an address leads to the version."""
    manifest = dataset_version(3, "s3://lake/orders/3/")
    manifest["spec"]["lineage"] |= {"source": source, "watermark": "2030-01-01"}

    (fact,) = facts(manifest)
    assert (fact.details["source"], fact.details["watermark"]) == (recorded, "2030-01-01")
    assert [part.uri for part in fact.used if part.name == "source"] == [recorded] * is_address
    assert [fact.name for fact in Graph([fact]).consequences(recorded)] == ["orders-3"] * is_address
    assert "secret" not in str(fact)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("select a.password, b\nfrom users", "select a.password, b\nfrom users"),
        ("select 1 where pwd = 'it''s' and x=1", "select 1 where pwd = *** and x=1"),
        ("dblink('host=h password=secret port=1', 'x')", "dblink('host=h password=*** port=1', 'x')"),
        ("dblink('password=''secret'' user=u')", "dblink('password=*** user=u')"),
        ("x('postgresql://eve:secret@db/crm?a=b')", "x('postgresql://db/crm?a=b')"),
        ("f(password => 'secret')", "f(password => ***)"),
        ("create user u password 'secret'", "create user u password ***"),
    ],
)
def test_a_query_is_recorded_without_passwords(query, shown):
    """The record of an imported version answers which query made it."""
    manifest = dataset_version(3, "s3://lake/orders/3/")
    manifest["spec"]["lineage"] |= {"source": "query 5f0c on PostgreSQL", "query": query}
    (fact,) = facts(manifest)
    assert fact.details["query"] == shown

    lineage = Lineage("DatasetVersion/orders-3", Graph([fact]), "team-a")
    assert f"├─ query: {shown}".replace("\n", " ") in lineage.tree()
    (event,) = lineage.events()
    assert event["job"]["facets"]["sql"]["query"] == shown


@pytest.fixture
def monthly():
    """A run with a step for each partition of orders@3, beside version 30 that no run has read."""
    folder = "s3://lake/orders/3/"
    pin = {"dataset": "orders@latest", "version": "orders-3", "uri": folder, "digest": DIGEST}
    months = {"name": "months", "state": "Succeeded", "items": 2, "partitions": pin}
    first = {"name": "months-0", "state": "Succeeded", "kind": "TrainingJob", "child": "months-0-1"}
    manifests = (
        dataset_version(3, folder),
        dataset_version(30, "s3://lake/orders/30/"),
        pipeline_step("months-0-1", "monthly", [f"{folder}month=2026-01/"], [MODEL]),
        pipeline_run("monthly", months, first),
        {**version(), "spec": {**version()["spec"], "lineage": {"trainingJob": "months-0-1"}}},
    )
    return Graph(fact for manifest in manifests for fact in facts(manifest))


def test_a_partition_is_a_part_of_its_version(monthly):
    """A model that was trained on a partition comes from the version; the version leads to job, run and model."""
    origins = monthly.origins("ModelVersion/churn-8")
    assert {fact.name for fact in origins} == {"churn-8", "months-0-1", "orders-3", "monthly"}

    consequences = [fact.name for fact in monthly.consequences("DatasetVersion/orders-3")]
    assert set(consequences) == {"months-0-1", "monthly", "churn-8"}
    assert monthly.consequences("DatasetVersion/orders-30") == []


def test_a_run_names_the_version_of_its_partitions(monthly):
    """The record of the run has the version to which a step was pinned, with its digest."""
    (run,) = monthly.makers("PipelineRun/monthly")
    used = [(part.name, part.uri, part.digest) for part in run.used if part.uri.startswith("DatasetVersion/")]
    assert used == [("partitions of step months", "DatasetVersion/orders-3", DIGEST)]


def test_a_partition_is_shown_below_its_version(monthly):
    """The tree leads from the model by the partition to the version, and the flowchart has the edge."""
    tree = Lineage("ModelVersion/churn-8", monthly, "team-a").tree()
    lines = [line.strip("│├└─ ") for line in tree.splitlines()]
    place = lines.index("in0: s3://lake/orders/3/month=2026-01/")
    assert lines[place + 1] == f"DatasetVersion/orders-3 Ready {END}"

    chart = as_text(Lineage("ModelVersion/churn-8", monthly, "team-a"), "mermaid")
    names = {line.split('"')[1]: line.split("[")[0].strip() for line in chart.splitlines() if '["' in line}
    assert f"{names['DatasetVersion/orders-3']} --> {names['s3://lake/orders/3/month=2026-01/']}" in chart


@pytest.mark.parametrize("state", ["", "Pending", "Running", "Suspended"])
def test_a_run_that_goes_on_tells_nothing(state):
    """Only the end of a run is worth a record."""
    manifest = job()
    manifest["status"]["state"] = state

    assert facts(manifest) == []


def test_a_version_leads_back_to_its_data(graph):
    """The origins of a version are its registration and the run, with the data that the run read."""
    origins = graph.origins("ModelVersion/churn-8")

    assert steps(origins) == [("ModelVersion", "registration"), ("TrainingJob", "end")]
    assert DATA in [part.uri for part in origins[-1].used]


def test_data_leads_to_models_and_endpoints(graph):
    """The consequences of a file are the run that read it, the version, the alias, and the endpoint that serves it."""
    assert steps(graph.consequences(DATA)) == [
        ("TrainingJob", "end"),
        ("ModelVersion", "registration"),
        ("Model", "alias/champion"),
        ("OnlineEndpoint", "deployment/blue"),
    ]
    assert graph.consequences("s3://lake/team-a/other.csv") == []


def test_circles_end():
    """A file that a run reads and writes does not make the walk endless."""
    manifest = job()
    manifest["status"]["outputs"]["model"]["uri"] = DATA

    assert steps(Graph(facts(manifest)).origins(DATA)) == [("TrainingJob", "end")]


def test_the_tree_shows_both_directions(graph):
    """Each line is a fact with time and user, or a part with the beginning of its digest."""
    text = Lineage("ModelVersion/churn-8", graph, "team-a").tree()

    assert text.splitlines()[:5] == [
        "ModelVersion/churn-8",
        "├─ comes from",
        f"│  └─ ModelVersion/churn-8 Ready {END}",
        "│     ├─ TrainingJob/churn",
        f"│     │  └─ TrainingJob/churn Succeeded {END} by ada",
    ]
    assert f"table: {DATA}  {DIGEST[:19]}" in text
    assert "   └─ OnlineEndpoint/churn deployment/blue churn-8" in text


def test_a_flowchart_leads_from_left_to_right(graph):
    """The Mermaid text has a node for each part and fact once, and an edge for each use."""
    text = as_text(Lineage("ModelVersion/churn-8", graph, "team-a"), "mermaid")

    assert text.startswith("flowchart LR\n")
    assert text.count(f'["{DATA}"]') == 1
    nodes = {line.split("[")[0].split("(")[0].strip() for line in text.splitlines() if '"' in line}
    edges = [line.split(" --> ") for line in text.splitlines() if "-->" in line]
    assert {end.strip() for edge in edges for end in edge} == nodes


def test_events_are_openlineage(graph):
    """Each fact is a run event with inputs, outputs and a UUID, files by bucket and key."""
    events = Lineage("ModelVersion/churn-8", graph, "team-a").events()

    run = next(event for event in events if event["job"]["name"] == "TrainingJob/churn/end")
    assert (run["eventType"], run["eventTime"], run["job"]["namespace"]) == ("COMPLETE", END, "ultramarine://team-a")
    assert {"namespace": "s3://lake", "name": "team-a/raw.csv"} in run["inputs"]
    assert len({event["run"]["runId"] for event in events}) == len(events)


def test_events_are_those_of_the_official_models(graph, runs):
    """The client of OpenLineage reads each event, and writes the same again."""
    every = Graph([*runs, *(fact for made in (job(), version(), model(), endpoint()) for fact in facts(made))])
    events = Lineage("ModelVersion/churn-8", every, "team-a").events()
    assert {event["eventType"] for event in events} == {"START", "COMPLETE"}
    for event in events:
        written = json.loads(Serde.to_json(official(event)), object_hook=without_facets)
        assert written == event


def without_facets(values):
    """JSON values without the empty facets that the client adds."""
    return {name: value for name, value in values.items() if not name.lower().endswith("facets")}


def official(event):
    """An event in the classes of OpenLineage's client, which refuse unknown fields and check times and names."""
    own = {
        "run": Run(**event["run"]),
        "job": Job(**event["job"]),
        "eventType": EventType(event["eventType"]),
        "inputs": [InputDataset(**part) for part in event["inputs"]],
        "outputs": [OutputDataset(**part) for part in event["outputs"]],
    }
    return RunEvent(**{key: value for key, value in (event | own).items() if key != "schemaURL"})


@pytest.mark.parametrize(
    ("state", "type"), [("Succeeded", "COMPLETE"), ("Failed", "FAIL"), ("Stopped", "ABORT"), ("Cancelled", "ABORT")]
)
def test_an_event_has_the_outcome_of_its_run(state, type):
    """Each way in which a run ends is one of the types of OpenLineage."""
    manifest = job()
    manifest["status"]["state"] = state

    (event,) = Lineage("TrainingJob/churn", Graph(facts(manifest)), "team-a").events()
    assert event["eventType"] == type
    official(event)


FIRST, SECOND, THIRD = "2030-01-01T13:00:00Z", "2030-01-02T13:00:00Z", "2030-01-03T13:00:00Z"


def served(version, time, name="blue"):
    """A recorded fact: a deployment of the endpoint churn serves a version; an empty one ends it."""
    used = (Part(f"ModelVersion/{version}", name),) if version else ()
    made = (Part("OnlineEndpoint/churn"),) if version else ()
    return Fact("OnlineEndpoint", "churn", "u1", f"deployment/{name}", version, time, "ada", used, made)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ([], f"since {FIRST} by ada"),
        ([served("churn-9", SECOND)], f"from {FIRST} until {SECOND} by ada"),
        ([served("", SECOND), served("churn-8", THIRD)], f"from {FIRST} until {SECOND} by ada"),
        ([served("", "")], f"from {FIRST} until an unknown time by ada"),
        ([served("churn-9", SECOND, "green")], f"since {FIRST} by ada"),
    ],
)
def test_a_version_is_served_until_the_next_fact(later, words):
    """Another version, no version and the end of the endpoint do so; another deployment does not."""
    lineage = Lineage("ModelVersion/churn-8", Graph([served("churn-8", FIRST), *later]), "team-a")
    assert f"OnlineEndpoint/churn deployment/blue churn-8 {words}" in lineage.tree()
    assert f"OnlineEndpoint/churn deployment/blue churn-8 {words}" in lineage.mermaid()

    end = later[0].time if "until" in words else None
    assert lineage.document()["consequences"][0].get("until") == end


def test_each_period_of_serving_is_a_run_of_openlineage():
    """It starts when the version answers, and is complete when it does not any more."""
    every = Graph([served("churn-8", FIRST), served("", SECOND), served("churn-8", THIRD)])
    events = Lineage("ModelVersion/churn-8", every, "team-a").events()
    assert [(event["eventType"], event["eventTime"]) for event in events] == [
        ("START", FIRST), ("COMPLETE", SECOND), ("START", THIRD)
    ]  # fmt: skip
    runs = [event["run"]["runId"] for event in events]
    assert runs[0] == runs[1] != runs[2]
    for event in events:
        official(event)


@pytest.mark.parametrize(
    ("traffic", "serving"), [({"blue": 100}, True), ({"blue": 5, "green": 95}, True), ({"green": 100}, False)]
)
def test_a_deployment_without_traffic_serves_no_version(traffic, serving):
    """The record of its version ends when its share is 0; its rollout names the version all the same."""
    manifest = endpoint()
    manifest["spec"]["rollout"] = {"candidate": "blue"}
    manifest["status"]["traffic"] = traffic
    slots = {fact.slot: fact for fact in facts(manifest)}
    assert ("deployment/blue" in slots) == serving
    assert slots["rollout"].used == (Part("ModelVersion/churn-8", "blue"),)


def test_a_tree_has_no_empty_branch(graph):
    """Nothing comes from an endpoint, so nothing is said about its users."""
    text = Lineage("OnlineEndpoint/churn", graph, "team-a").tree()
    assert "comes from" in text
    assert "used by" not in text


def test_the_platforms_own_image_is_named():
    """A node that has loaded the image from an archive knows its digest alone."""
    manifest = job()
    manifest["status"]["provenance"]["imageDigest"] = DIGEST
    [fact] = facts(manifest)
    images = [part for part in fact.used if part.name == "image"]
    assert [(part.uri, part.digest) for part in images] == [("ultramarine-trainer", DIGEST)]


@pytest.mark.parametrize(
    ("creator", "user"), [("system:serviceaccount:ultramarine:ultramarine-operator", "ada"), ("bob", "bob")]
)
def test_a_version_is_of_the_user_who_asked_for_its_run(creator, user):
    """The operator registers in her name; any other creator speaks only for itself."""
    manifest = version()
    manifest["spec"]["lineage"]["requestedBy"] = "ada"
    manifest["status"]["requestedBy"] = creator
    [fact] = facts(manifest)
    assert fact.by == user
