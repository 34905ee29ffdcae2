"""Offline validation: the places, words and remedies of what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest
import yaml
from ultramarine.files.reading import read
from ultramarine.files.schemas import Kind, items, kinds
from ultramarine.files.validation import Report, validate
from ultramarine_contract.cel import evaluate, is_supported, parsed
from ultramarine_contract.meta import Manifest
from ultramarine_contract.schemas import RULES

HEAD = "apiVersion: ultramarine.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: churn}\n"


def report(folder: Path, text: str) -> Report:
    """The report on a file with that text."""
    file = folder / "job.yaml"
    file.write_text(text)
    reading = read([file])
    assert reading.problems == []
    return validate(reading.documents)


def problems(folder: Path, text: str) -> list[str]:
    """The problems of a file with that text, without the folder."""
    return [str(problem).removeprefix(f"{folder}/") for problem in report(folder, text).problems]


def test_lines_that_no_build_takes_are_all_named(tmp_path: Path) -> None:
    """Git, hashes without a package, files and paths; packages, addresses and options of the index are admitted."""
    wrong = [
        "git+https://x/y",
        "--hash=sha256:abc",
        "-r base.txt",
        "./own.whl",
        "own @ git+https://x/y",
        "--editable .",
    ]
    right = [
        "lightgbm==4.6",
        "own[all] @ https://x/own.whl",
        "a<2 --hash=sha256:00",
        "--extra-index-url https://x",
        "#",
    ]
    lines = "".join(f"      - '{line}'\n" for line in [*right, *wrong])

    named = problems(tmp_path, f"{HEAD}spec:\n  command: [python]\n  environment:\n    requirements:\n{lines}")

    assert [line.split(":")[1] for line in named] == [str(8 + len(right) + at) for at in range(len(wrong))]
    assert all("a build reads no git" in line and "need requirementsFile" in line for line in named)


def test_problems_have_place_object_field_and_remedy(tmp_path: Path) -> None:
    """All problems of an object are named at once, in the order of the file."""
    text = HEAD + dedent("""\
        spec:
          comand: [python]
          nodes: "2"
          framework: pytorch
          backoffLimit: 101
          parameters: {lr: [1]}
          outputs:
            model: {registerAS: churn}
            report: []
          inputs:
            data: {}
        """)

    assert problems(tmp_path, text) == [
        "job.yaml:4:1: TrainingJob/churn: spec.command: required; add it",
        "job.yaml:5:3: TrainingJob/churn: spec.comand: unknown field; did you mean command?",
        "job.yaml:6:10: TrainingJob/churn: spec.nodes: must be a whole number, not a text; remove the quotes",
        "job.yaml:7:14: TrainingJob/churn: spec.framework: must be one of none, torch, tensorflow, jax, xgboost, mpi, "
        "not pytorch",
        "job.yaml:8:17: TrainingJob/churn: spec.backoffLimit: must be at most 100, not 101",
        "job.yaml:9:16: TrainingJob/churn: spec.parameters.lr: must be a text, a number or a boolean; write anything "
        "else as a text in quotes",
        "job.yaml:11:13: TrainingJob/churn: spec.outputs.model.registerAS: unknown field; did you mean registerAs?",
        "job.yaml:12:5: TrainingJob/churn: spec.outputs.report: must be an object, not a list; "
        "write FIELD: VALUE without '- '",
        "job.yaml:14:5: TrainingJob/churn: spec.inputs.data: give either uri or dataset, not both",
    ]


def test_references_are_checked_beside_other_faults(tmp_path: Path) -> None:
    """Each wrong reference has its line and column; what a malformed field would name is not guessed."""
    text = HEAD + dedent("""\
        spec:
          nodes: "1"
          command:
            - python
            - --data=$(inputs.e)
            - 7
          args: [a, $(inputs.data),
            "b", '$(outputs.m)', $(params.lr)]
          inputs:
            data: {urii: s3://lake/churn/}
          outputs: [m]
        """)

    assert [line.partition("; ")[0] for line in problems(tmp_path, text) if "$(" in line] == [
        "job.yaml:8:7: TrainingJob/churn: spec.command[1]: $(inputs.e) names no input",
        "job.yaml:11:26: TrainingJob/churn: spec.args[4]: $(params.lr) names no parameter",
    ]
    assert len(problems(tmp_path, text)) == 6


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "{command: python train.py}",
            "4:17: TrainingJob/churn: spec.command: command must be a list, such as [python",
        ),
        ("{command: [python train.py]}", "spec.command: command must be a list, such as [python, train.py]"),
        ("{command: [a], nodes: 2}", "spec: several nodes need a framework"),
        ("{command: [a, $(inputs.dta)]}", "spec.command[1]: $(inputs.dta) names no input; there are none"),
        ("{command: [a, '${{ inputs.x }}']}", "spec.command[1]: ${{ inputs.x }} would reach the command as it is; "),
        ("{command: [a], env: [{name: A, value: 1}, {name: A}]}", "spec.env[1]: has the same name as entry 0"),
        ("{command: [a], resources: {limits: {memory: 1GB}}}", "must be a quantity such as 2, 500m or 4Gi"),
        ("{command: [a], inputs: {x: {path: no/such}}}", "spec.inputs.x.path: no/such does not exist"),
        ("{command: [a], source: {path: ., uri: s3://b12/k}}", "spec.source.path: has uri beside it"),
        ("{command: [a], source: {inline: {a.py: ''}, path: .}}", "spec.source: give one of inline, configMap"),
        ("null", "spec: required; add it"),
        ("[]", "spec: must be an object, not a list"),
    ],
)
def test_what_the_server_refuses_is_named(tmp_path: Path, spec: str, words: str) -> None:
    """Rules over several fields, references, duplicates and local paths are checked too."""
    (problem,) = problems(tmp_path, f"{HEAD}spec: {spec}\n") or [""]

    assert words in problem


def test_the_head_of_an_object_is_checked(tmp_path: Path) -> None:
    """apiVersion, kind and metadata have checks of their own, with the nearest name."""
    text = dedent("""\
        apiVersion: ultramarine.dev/v1
        kind: TrainingJob
        ---
        apiVersion: ultramarine.dev/v1alpha1
        kind: TraningJob
        ---
        kind: Sweep
        ---
        apiVersion: ultramarine.dev/v1alpha1
        kind: TrainingJob
        metadata: {name: Churn_1, label: {a: b}, annotations: {a: 1}}
        spec: {command: [a]}
        """)

    assert problems(tmp_path, text) == [
        "job.yaml:1:13: TrainingJob: apiVersion: must be ultramarine.dev/v1alpha1",
        "job.yaml:5:7: TraningJob: kind: TraningJob is not a kind of Ultramarine; did you mean TrainingJob?",
        "job.yaml:7:1: Sweep: apiVersion: required; write apiVersion: ultramarine.dev/v1alpha1",
        "job.yaml:11:18: TrainingJob/Churn_1: metadata.name: must be lower-case letters, digits, '-' and '.', with a "
        "letter or digit at both ends",
        "job.yaml:11:27: TrainingJob/Churn_1: metadata.label: unknown field; did you mean labels?",
        "job.yaml:11:59: TrainingJob/Churn_1: metadata.annotations.a: must be a text, not a number; quote it",
    ]


def test_two_objects_of_one_name_are_a_problem(tmp_path: Path) -> None:
    """The second of two objects with one kind, namespace and name is named, with the place of the first."""
    job = f"{HEAD}spec: {{command: [a]}}\n"
    (problem,) = problems(tmp_path, f"{job}---\n{job}")

    assert problem.startswith("job.yaml:8:18: TrainingJob/churn: metadata.name: stands twice, first at ")


def test_other_kinds_pass_with_a_note(tmp_path: Path) -> None:
    """Objects that the platform does not define are not checked, and a note says so."""
    made = report(tmp_path, "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nspec: 1\n")

    assert made.problems == []
    assert [note.message for note in made.notes] == ["not a kind of Ultramarine; not checked"]
    assert made.checked == 0


def test_a_folder_may_hold_other_yaml(tmp_path: Path) -> None:
    """A file of a folder that is not a manifest is a note; a file that the user names is a problem."""
    (tmp_path / "conda.yaml").write_text("dependencies: [python]\n")

    assert [note.message for note in validate(read([tmp_path]).documents).notes] == ["not a manifest; not checked"]
    assert validate(read([tmp_path / "conda.yaml"]).documents).problems != []
    assert report(tmp_path, "compute: {gpu: {}}\n").problems == []


def test_an_azure_ml_file_is_named_as_one(tmp_path: Path) -> None:
    """A file of Azure ML is one problem, or a note in a folder; the message says which commands take it."""
    (tmp_path / "job.yml").write_text("type: command\ncommand: ls\ncompute: azureml:gpu\n")
    words = "an Azure ML file, not a manifest; `ultramarine submit` and `ultramarine convert azureml` take it"

    assert [note.message for note in validate(read([tmp_path]).documents).notes] == [words]
    assert [problem.message for problem in validate(read([tmp_path / "job.yml"]).documents).problems] == [words]


def test_checks_of_the_operator_are_made_too(tmp_path: Path) -> None:
    """A text that only the operator parses, such as the JSON of a warmup request, is checked."""
    text = HEAD.replace("TrainingJob", "OnlineEndpoint") + dedent("""\
        spec:
          deployments:
          - name: blue
            model: churn@1
            warmup: {request: "[1]"}
        """)

    assert problems(tmp_path, text) == [
        "job.yaml:8:23: OnlineEndpoint/churn: spec.deployments[0].warmup.request: must be a JSON object, such as "
        '{"inputs": [...]}'
    ]


def rules(schema: Manifest) -> Iterator[str]:
    """All rules of a schema."""
    yield from (rule["rule"] for rule in schema.get(RULES, []))
    inner = [*schema.get("properties", {}).values(), items(schema)]
    for child in inner:
        if child:
            yield from rules(child)


@pytest.mark.parametrize("kind", kinds().values(), ids=lambda kind: kind.name)
def test_every_rule_is_evaluated_offline(kind: Kind) -> None:
    """No rule is left to the API server, except those that compare with the stored object."""
    for rule in rules(kind.schema):
        assert is_supported(rule), rule


@pytest.mark.parametrize(
    ("expression", "names", "value"),
    [
        ("self.a.b || true", {"self": {}}, True),
        ("self.all(x, x > 1) || self.exists(x, x == 1)", {"self": [1, 2]}, True),
        ("self.exists_one(x, x == 'a') ? 1 : 2", {"self": ["a", "a"]}, 2),
        ("self.filter(x, x != 1).map(x, x * 2)", {"self": [1, 2, 3]}, [4, 6]),
        ("has(self.a) && !has(self.b)", {"self": {"a": None}}, True),
        ("type(self) == string || type(self) == int", {"self": True}, False),
        ("1 == 1.0 && !(dyn(true) == 1)", {}, True),
        ("quantity('1.5Gi').compareTo(quantity(string(1))) + size('ab') - 3 * -1", {}, 6),
        (r"'a\\'.matches(r'^a\\$') && !'a\n'.matches('^a$') && !'\u00a0'.matches(r'\s')", {}, True),
        ("'b' in {'a': 1}.map(k, k)", {}, None),
    ],
)
def test_rules_mean_what_they_mean_to_the_server(expression: str, names: Manifest, value: object) -> None:
    """Errors that do not matter are absorbed, numbers compare by value, and $ and \\s are those of RE2."""
    if value is None:
        assert not is_supported(expression)
    else:
        assert evaluate(parsed(expression), names) == value


@pytest.mark.parametrize("kind", ["Pipeline", "PipelineRun"])
def test_references_between_steps_are_checked(tmp_path: Path, kind: str) -> None:
    """An output that no step has is named at its step, without a cluster."""
    steps = dedent("""\
        steps:
        - {name: clean, trainingJob: {command: [clean], outputs: {table: {}}}}
        - name: train
          trainingJob: {command: [train], inputs: {table: {uri: $(steps.clean.outputs.tabel)}}}
        """)
    head = f"apiVersion: ultramarine.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: churn}}\nspec:\n"
    own = "" if kind == "Pipeline" else "  pipelineSpec:\n"
    [problem] = problems(tmp_path, head + own + indent(steps, "    "))
    assert "step train: inputs.table: step clean has no output 'tabel' (it has: table)" in problem
    assert not problems(tmp_path, head + own + indent(steps.replace("tabel", "table"), "    "))


def test_a_schedule_and_its_template_are_checked_at_once(tmp_path: Path) -> None:
    """A fault of the Schedule does not hide those of the run that it would create."""
    text = dedent("""\
        apiVersion: ultramarine.dev/v1alpha1
        kind: Schedule
        metadata: {name: nightly}
        spec:
          cron: "0 25 * * *"
          suspended: true
          template: {kind: TrainingJob, spec: {comand: [a], nodes: "2"}}
        """)
    fields = [problem.split(": ")[2] for problem in problems(tmp_path, text)]
    template = ["spec.template.spec.command", "spec.template.spec.comand", "spec.template.spec.nodes"]
    assert [field for field in fields if "template" in field] == template
    assert "spec.suspended" in fields


def test_what_a_schedule_gives_to_a_pipeline_of_the_same_files_is_checked(tmp_path: Path) -> None:
    """A run would fail at its time only: unknown, missing and unsuitable parameters are named at their place."""
    text = dedent("""\
        apiVersion: ultramarine.dev/v1alpha1
        kind: Schedule
        metadata: {name: nightly}
        spec:
          cron: "0 3 * * *"
          template:
            kind: PipelineRun
            spec:
              pipeline: churn
              parameters: {rate: fast, rat: 1}
        ---
        apiVersion: ultramarine.dev/v1alpha1
        kind: Pipeline
        metadata: {name: churn}
        spec:
          parameters: {rate: {type: number}}
          steps: [{name: a, trainingJob: {command: ["true"]}}]
        """)
    found = problems(tmp_path, text)
    at = "spec.template.spec.parameters"
    assert any(f"{at}.rat: the pipeline has no such parameter (it has: rate)" in problem for problem in found)
    assert any(f"{at}.rate: expected number, got string" in problem for problem in found)
    assert len(found) == 2
    assert not problems(tmp_path, text.replace("{rate: fast, rat: 1}", "{rate: 0.5}"))
    assert not problems(tmp_path, text.replace("metadata: {name: churn}", "metadata: {name: churn, namespace: b}"))


HEAD_OF_DATASET = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "orders"}}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("DELETE FROM orders", "must be one SELECT that only reads, and begins with DELETE"),
        ("-- all\nselect 1; drop table orders", "has a second statement after the semicolon"),
        ("/* ; */ (SELECT ';' AS \";\" FROM orders -- ;\n);\n", ""),
        ("WITH a AS (SELECT $$;$$) TABLE a", ""),
        (r"SELECT E'\';' FROM orders", ""),
    ],
)
def test_a_query_that_writes_is_named(tmp_path: Path, query: str, words: str) -> None:
    """Semicolons in texts, names and comments end no statement."""
    sql = {"uri": "s3://lake/crm.sqlite", "query": query}
    spec = {"type": "table", "source": {"sql": sql}}
    manifest = {
        "apiVersion": "ultramarine.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "orders"},
        "spec": spec,
    }
    found = problems(tmp_path, yaml.safe_dump(manifest))
    assert (words in found[0] and "spec.source.sql.query" in found[0]) if words else not found
