"""Rules of a TrainingJob's API, with examples."""

from __future__ import annotations

from typing import Any

from ultramarine_contract.meta import Manifest

from ....shared.testing import DIGEST, NAME_OF_40, Rule, clash, named, rule

CODE, REPOSITORY = "s3://lake/code.tar.gz", {"url": "https://git.example.com/team/churn.git"}
SECRET = {"secretRef": {"name": "churn-git"}}
DATA: Manifest = {"parameters": {"input": 1}, "envFrom": None}
NESTED = (  # right references before brackets of the text's own
    'python -c "print($(params.input))"',
    '{"lr": $(params.input)}',
    "$(basename $(inputs.data))/x",
    "wc -l $(ls $(inputs.data))",
)
MANY = {"rate": None, **{f"a{number}": number for number in range(13)}}
ALONE: Manifest = {"nodes": 1, "framework": None, "processesPerNode": None, "elastic": None}
NOT_IN_ENV = "spec.env: value of A has a reference, which is filled in only in command and args; pass it there"


def source(**fields: Any) -> Manifest:
    """A source that is not inline."""
    return {"source": {"inline": None, **fields}}


def git(**fields: Any) -> Manifest:
    """A source in a repository."""
    return source(git={**REPOSITORY, **fields})


def variable(**fields: Any) -> Manifest:
    """One environment variable."""
    return {"env": [{"name": "A", **fields}]}


def from_all(**fields: Any) -> Manifest:
    """Environment variables from all keys of one object."""
    return {"envFrom": [fields]}


def inputs(**fields: Any) -> Manifest:
    """One input, called table."""
    return {"inputs": {"table": fields}}


def outputs(**fields: Any) -> Manifest:
    """One output, called report."""
    return {"outputs": {"model": None, "report": fields}}


def on_failure(**exits: Any) -> Manifest:
    """A failure policy with one rule."""
    exits = {"operator": "In", "values": [1], **exits}
    return {"podFailurePolicy": {"rules": [{"action": "Count", "onExitCodes": exits}]}}


def toleration(**fields: Any) -> Manifest:
    """One toleration."""
    return {"podTemplate": {"tolerations": [fields]}}


def pods(**fields: Any) -> Manifest:
    """Fields of the pod template."""
    return {"podTemplate": fields}


def selector(name: str) -> Manifest:
    """A node selector of one label."""
    return pods(nodeSelector={name: "a"})


def misspelled(reference: str) -> Manifest:
    """A command with that reference."""
    return {"command": ["sh", "-c", f"cat {reference}"], **DATA}


_NAMES = (
    named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
    named("metadata.name must not contain a dot", "a-b", "a.b"),
)
_CODE = (
    rule("give one of inline, configMap", {"source": None}, {"source": {"inline": None}}),
    clash(
        "give one of inline, configMap",
        source(uri=CODE),
        {"source": {"inline": {"train.py": "print(1)"}, "configMap": None, "git": None, "uri": CODE}},
    ),
    rule(
        "must be https:// or http:// without a user",
        git(),
        *(
            git(url=url)
            for url in (
                "file:///etc",
                "https://ada:secret@example.com/churn.git",
                "ssh://git:secret@example.com/churn.git",
                "ssh://example.com/churn.git",
                "git@-oProxyCommand=x:churn.git",
                "git@example.com:-x",
            )
        ),
    ),
    rule(
        "ssh needs a key",
        git(url="git@example.com:team/churn.git", **SECRET),
        git(url="git@example.com:team/churn.git"),
        git(url="ssh://git@example.com:2222/team/churn.git"),
    ),
    rule(
        "must be a branch, a tag or a commit ID",
        git(ref="release/1.2_rc-3"),
        *(git(ref=ref) for ref in ("--upload-pack=x", "a b", "a^{}")),
    ),
    rule(
        "must be the path of a folder in the repository",
        git(path="src/train_1/v2.0"),
        *(git(path=path) for path in ("../src", "/src", "src/../..", "src//a", ".git")),
    ),
    rule("uri must name one archive", source(uri=CODE), source(uri="s3://lake/code/")),
    clash(
        "digest applies to the archive",
        source(uri=CODE, digest=DIGEST),
        {"source": {"inline": {"a": ""}, "configMap": None, "git": None, "uri": None, "digest": DIGEST}},
    ),
    rule(
        "does not begin with two dots", {"source": {"inline": {".hidden": ""}}}, {"source": {"inline": {"..data": ""}}}
    ),
    rule(
        "the files together have more than 900,000",
        {"source": {"inline": {"a.py": "x" * 200_000, "b.py": ""}}},
        {"source": {"inline": {f"{number}.py": "x" * 200_000 for number in range(5)}}},
    ),
)
_COMMAND = (
    rule("command must name a program", {"command": ["a", ""]}, {"command": ["", "a"]}),
    rule(
        "command must be a list, such as", {"command": "python"}, {"command": "python train.py"}, {"command": ["ls -l"]}
    ),
    *(
        rule(
            f"$({kind}.{lost}) names no {word}; {word}s are: {there}; correct the name, or add it to spec.{kind_field}",
            {"args": [f"$({kind}.{there})"], **outputs()},
            {"args": ["--fast", f"--a=$({kind}.{there}) b $({kind}.{lost})"], **outputs()},
        )
        for kind, there, lost, word, kind_field in (
            ("inputs", "data", "dta", "input", "inputs"),
            ("outputs", "report", "Report", "output", "outputs"),
            ("params", "rate", "", "parameter", "parameters"),
        )
    ),
    rule(
        "$(inputs.data) names no input; there are none; correct the name, or add it to spec.inputs",
        {"command": ["$(inputs)", "$(HOME)", "$$(input.a)"], "inputs": None},
        {"command": ["a", "$(inputs.data)"], "inputs": None},
    ),
    *(
        rule(
            f"{reference} would reach the command as it is; write {right}",
            {
                "command": ["sh", "-c", "echo $(date) $$(input.x) ${HOME} ${data} $(nosuch) x.$(inputs.data)", *NESTED],
                **DATA,
            },
            misspelled(reference),
        )
        for reference, right in (
            ("$(input.data)", "$(inputs.data)"),
            ("${inputs.data}", "$(inputs.data)"),
            ("$(inputs.data}", "$(inputs.data)"),
            ("${{ inputs.data }}", "$(inputs.data)"),
            ("$(output.report)", "$(outputs.report)"),
            ("$(parameters.input)", "$(params.input)"),
            ("$(data)", "$(inputs.data)"),
            ("$(input)", "$(params.input)"),
        )
    ),
    rule(
        "$(data) would reach the command as it is; write $(inputs.data)",
        {"command": ["a", "$(data)"], "env": [{"name": "data", "value": "x"}], **DATA},
        {"command": ["a", "$(data)"], "env": [{"name": "other", "value": "x"}], **DATA},
    ),
    rule(NOT_IN_ENV, variable(value="$(HOME) $(data)"), variable(value="a $(inputs.data)")),
    rule(NOT_IN_ENV, variable(value="$$(input.data) $(data)"), variable(value="a ${{inputs.data}}")),
    rule(
        "$(params.a13) names no parameter; parameters are: ",
        {"parameters": MANY, "command": ["$(params.a12)"]},
        {"parameters": MANY, "command": ["$(params.a13)"]},
    ),
    rule(
        " and 3 more; correct the name",
        {"parameters": MANY, "command": ["$(params.a12)"]},
        {"parameters": MANY, "command": ["$(params.a13)"]},
    ),
)
_VARIABLES = (
    clash(
        "give either value or valueFrom",
        variable(value="a"),
        variable(value="", valueFrom={"secretKeyRef": {"name": "a", "key": "b"}}),
    ),
    rule(
        "give one of secretKeyRef and configMapKeyRef",
        variable(valueFrom={"secretKeyRef": {"name": "a", "key": "b"}}),
        variable(valueFrom={}),
    ),
    clash(
        "the prefix ULTRAMARINE_ is reserved; choose another name",
        {"env": [{"name": "ULTRA"}]},
        {"env": [{"name": "ULTRAMARINE_TASK"}]},
    ),
    rule(
        "the prefix ULTRAMARINE_ is reserved; choose another prefix",
        from_all(prefix="ULTRA_", secretRef={"name": "a"}),
        from_all(prefix="ULTRAMARINE_", secretRef={"name": "a"}),
    ),
    clash(
        "give one of secretRef and configMapRef",
        from_all(secretRef={"name": "a"}),
        from_all(prefix="A"),
        from_all(secretRef={"name": "a"}, configMapRef={"name": "a"}),
    ),
    *(
        rule(
            "spec.parameters.rate must be a text, a number or a boolean; write anything else as a text in quotes",
            {"parameters": {"rate": plain}},
            {"parameters": {"rate": odd}},
        )
        for plain, odd in ((0.1, {"a": 1}), (3, {}), (True, [1]), ("x", []), (1e-5, {"a": {"b": []}}))
    ),
    rule(
        "spec.env: value of A must be a text, a number or a boolean; write anything else as a text in quotes",
        variable(value=1.5),
        variable(value=[]),
    ),
)
_DIGEST = "sha256:" + "a" * 64
_INPUTS = (
    rule(
        "give either uri or dataset, not both",
        inputs(dataset="churn@latest"),
        inputs(dataset="churn@latest", uri="s3://lake/churn.csv"),
        inputs(uri=None),
    ),
    rule(
        "digest applies to uri, since a version of a dataset has its own",
        inputs(uri="s3://lake/churn.csv", digest=_DIGEST),
        inputs(dataset="churn@latest", digest=_DIGEST),
    ),
    rule(
        "content with a digest is verified when it is downloaded",
        inputs(uri="s3://lake/churn.csv", mode="Stream"),
        inputs(uri="s3://lake/churn.csv", digest=_DIGEST, mode="Stream"),
        inputs(dataset="churn@latest", mode="Stream"),
    ),
)
_OUTPUTS = (
    *(
        clash(f"{name} applies to a model", outputs(registerAs="a", **{name: value}), outputs(**{name: value}))
        for name, value in (("format", "onnx"), ("compile", {"to": "onnx"}), ("allowCodeExecution", True))
    ),
    clash(
        "fromMlflow gives a model", outputs(fromMlflow=True), outputs(fromMlflow=True, registerAs="a", format="onnx")
    ),
    clash(
        "an output is a model or a version of a dataset",
        outputs(dataset="clean"),
        outputs(dataset="clean", registerAs="a"),
        outputs(dataset="clean", fromMlflow=True),
    ),
    clash("are reserved folders", {"outputs": {"log": {}}}, {"outputs": {"logs": {}}}),
)
_NODES = (
    clash(
        "elastic.minNodes must be less",
        {"nodes": 2, "elastic": {"minNodes": 1}},
        {"nodes": 2, "framework": "none", "elastic": {"minNodes": 2}},
    ),
    clash(
        "processesPerNode needs",
        {"framework": "none", "processesPerNode": None},
        {"framework": "jax", "processesPerNode": 2},
        {"framework": "none", "processesPerNode": 2},
        {**ALONE, "processesPerNode": 2},
    ),
    clash("several nodes need a framework", ALONE, {"nodes": 2, "framework": None, "processesPerNode": None}),
    clash(
        "onOutOfMemory needs a first limit",
        {"onOutOfMemory": None, "resources": None},
        {"onOutOfMemory": {"maxMemory": "1Gi"}, "resources": None},
        {"onOutOfMemory": {"maxMemory": "1Gi"}, "resources": {"requests": {"memory": "1Gi"}, "limits": None}},
    ),
    rule("onOutOfMemory needs a first limit", {}, {"resources": {"limits": {"memory": None, "cpu": 1}}}),
    rule(
        "resumeFrom must be a checkpoint's folder",
        {"checkpoint": {"resumeFrom": "s3://lake/a/"}},
        {"checkpoint": {"resumeFrom": "s3://lake/a"}},
    ),
    clash(
        "resumeFrom needs resume",
        {"checkpoint": {"resume": None}},
        {"checkpoint": {"resume": "Never", "resumeFrom": "s3://lake/a/"}},
    ),
    clash("must not have 0, which means", on_failure(operator="NotIn", values=[0, 1]), on_failure(values=[0, 1])),
)
_RESOURCES = (
    clash(
        "give one of name, requirements, requirementsFrom and requirementsFile",
        {"environment": {"requirements": None, "requirementsFile": "requirements.txt"}},
        {"environment": {"requirements": ["a"], "name": "lgb"}},
    ),
    clash(
        "a request must not be above the limit",
        {"resources": {"requests": {"cpu": 1, "memory": "1500Mi"}, "limits": {"cpu": "1000m", "memory": "1.5Gi"}}},
        {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1900M"}}},
        {"resources": {"requests": {"cpu": 2}, "limits": {"memory": "1Gi", "cpu": "1500m"}}},
    ),
    clash(
        "a resource such as nvidia.com/gpu cannot be shared",
        {"resources": {"requests": {"nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": 2}}},
        {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": None}},
        {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}},
    ),
)
_PODS = (
    rule(
        "mountPath is a folder of the platform",
        pods(volumes=[{"claimName": "a", "mountPath": "/mnt/shared"}, {"claimName": "a", "mountPath": "/cache"}]),
        *(
            pods(volumes=[{"claimName": "a", "mountPath": path}])
            for path in ("/mnt", "/mnt/inputs", "/mnt/environment/bin")
        ),
    ),
    rule(
        "must be a folder such as /data",
        pods(volumes=[{"claimName": "a", "mountPath": "/data/a_b/c.d"}]),
        *(
            pods(volumes=[{"claimName": "a", "mountPath": path}])
            for path in ("/workspace", "/mnt/../workspace", "/data/", "/database", "data")
        ),
    ),
    rule(
        "each key must be a label key",
        selector("example.com/A_b-1.c"),
        *map(selector, ("-a", "a/b/c", "Example.com/a", "/a", "a" * 64, f"{'a' * 252}/a")),
    ),
    rule(
        "a toleration without a key needs",
        toleration(operator="Exists", effect="NoSchedule"),
        toleration(),
        toleration(operator="Equal", value="a"),
        toleration(key=""),
    ),
    clash(
        "operator Exists takes no value",
        toleration(key="a", operator="Exists", value=""),
        toleration(key="a", operator="Exists", value="b"),
    ),
    clash(
        "tolerationSeconds needs effect NoExecute",
        toleration(key="a", effect="NoExecute", tolerationSeconds=60),
        toleration(operator="Exists", tolerationSeconds=60),
        toleration(key="a", effect="NoSchedule", tolerationSeconds=60),
    ),
    rule(
        "the prefix system- is reserved",
        pods(priorityClassName="not-system-critical"),
        pods(priorityClassName="system-node-critical"),
    ),
    rule(
        "the prefix ultramarine-platform is reserved",
        pods(priorityClassName="ultramarine"),
        pods(priorityClassName="ultramarine-platform-team-a"),
    ),
    rule('unknown field "spec.podTemplate.hostNetwork"', {}, pods(hostNetwork=True)),
)
RULES: tuple[Rule, ...] = (*_NAMES, *_CODE, *_COMMAND, *_VARIABLES, *_INPUTS, *_OUTPUTS, *_NODES, *_RESOURCES, *_PODS)
