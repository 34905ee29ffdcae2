"""The rules of what a TrainingJob runs: its code, its command, its variables; see rules.py."""

from __future__ import annotations

from typing import Any

from bare import DIGEST
from rules import DIGESTS, DOTS, OBJECT, TJ, URI, Rule, of_spec
from ultramarine_contract.meta import Manifest

ONE_SOURCE = "give one of inline, configMap, git and uri"
WEB = (
    "must be https:// or http:// without a user, ssh://USER@HOST/PATH or USER@HOST:PATH; put a password into "
    "the Secret of secretRef"
)
SSH_KEY = "ssh needs a key; set secretRef to a Secret with ssh-privatekey and known_hosts"
SECRET = {"secretRef": {"name": "churn-git"}}
CODE, REPOSITORY = "s3://lake/code.tar.gz", {"url": "https://git.example.com/team/churn.git"}
SMALL, LARGE = {"a.py": "x" * 200_000, "b.py": ""}, {f"{n}.py": "x" * 200_000 for n in range(5)}


def source(**fields: Any) -> Manifest:
    """A source that is not inline."""
    return {"source": {"inline": None, **fields}}


def variable(**fields: Any) -> Manifest:
    """One environment variable."""
    return {"env": [{"name": "A", **fields}]}


def reference(kind: str, **selector: str) -> Manifest:
    """One environment variable from a key of a Secret or ConfigMap."""
    return variable(valueFrom={kind: selector})


DATA = {"parameters": {"input": 1}, "envFrom": None}
NESTED = (  # right references before brackets of the text's own
    'python -c "print($(params.input))"',
    '{"lr": $(params.input)}',
    "$(basename $(inputs.data))/x",
    "wc -l $(ls $(inputs.data))",
)
MANY = {"rate": None, **{f"a{number}": number for number in range(13)}}

RULES: list[Rule] = [
    # What has to be there
    of_spec(TJ, "a source is one", {"source": None}, {"source": {"inline": None}}, "spec.source: ", ONE_SOURCE),
    of_spec(TJ, "a source is one only", source(uri=CODE), {"source": {"uri": CODE}}, "spec.source: ", ONE_SOURCE),
    # What must not be empty
    of_spec(
        TJ,
        "a command names a program",
        {"command": ["a", ""]},
        {"command": ["", "a"]},
        "spec.command: ",
        "command must name a program",
    ),
    # Words with a form
    of_spec(
        TJ,
        "a variable's name is one",
        variable(),
        {"env": [{"name": "1A"}]},
        "spec.env[0].name: ",
        "must be letters, digits and '_', and must not begin with a digit",
    ),
    of_spec(
        TJ,
        "a source's name is a file's",
        {"source": {"inline": {"A-1_b.py": ""}}},
        {"source": {"inline": {"src/a.py": ""}}},
        "spec.source.inline: ",
        "each key must be a plain file name",
    ),
    of_spec(
        TJ,
        "a source's ConfigMap is named as ConfigMaps are",
        source(configMap={"name": "a"}),
        source(configMap={"name": "a/b"}),
        "spec.source.configMap.name: ",
        OBJECT,
    ),
    *(
        of_spec(TJ, f"a repository is no {url}", source(git=REPOSITORY), source(git={"url": url}), "git.url: ", WEB)
        for url in (
            "file:///etc",
            "https://ada:secret@example.com/churn.git",
            "ssh://git:secret@example.com/churn.git",
            "ssh://example.com/churn.git",
            "git@-oProxyCommand=x:churn.git",
            "git@example.com:-x",
        )
    ),
    *(
        of_spec(TJ, f"{url} needs a key", source(git={"url": url, **SECRET}), source(git={"url": url}), SSH_KEY)
        for url in ("git@example.com:team/churn.git", "ssh://git@example.com:2222/team/churn.git")
    ),
    of_spec(
        TJ,
        "credentials are a Secret's",
        source(git={**REPOSITORY, **SECRET}),
        source(git={**REPOSITORY, "secretRef": {}}),
        "spec.source.git.secretRef.name: Required",
    ),
    of_spec(
        TJ,
        "a Secret is named as Secrets are",
        source(git={**REPOSITORY, **SECRET}),
        source(git={**REPOSITORY, "secretRef": {"name": "a/b"}}),
        "spec.source.git.secretRef.name: ",
        OBJECT,
    ),
    *(
        of_spec(
            TJ,
            f"a ref is not {ref}",
            source(git={**REPOSITORY, "ref": "release/1.2_rc-3"}),
            source(git={**REPOSITORY, "ref": ref}),
            "spec.source.git.ref: ",
            "must be a branch, a tag or a commit ID of 40 hexadecimal digits",
        )
        for ref in ("--upload-pack=x", "a b", "a^{}")
    ),
    *(
        of_spec(
            TJ,
            f"a repository's folder is not {path}",
            source(git={**REPOSITORY, "path": "src/train_1/v2.0"}),
            source(git={**REPOSITORY, "path": path}),
            "spec.source.git.path: ",
            "must be the path of a folder in the repository, such as src/train",
        )
        for path in ("../src", "/src", "src/../..", "src//a", ".git")
    ),
    of_spec(TJ, "an archive is in the storage", source(uri=CODE), source(uri="http://a/b"), "spec.source.uri: ", URI),
    of_spec(TJ, "an archive's path is plain", source(uri=CODE), source(uri="s3://lake/../a"), "source.uri: ", DOTS),
    of_spec(
        TJ,
        "an archive is one object",
        source(uri=CODE),
        source(uri="s3://lake/code/"),
        "spec.source: ",
        "uri must name one archive, not a folder; remove the slash at its end",
    ),
    of_spec(
        TJ,
        "a source's digest is one",
        source(uri=CODE, digest=DIGEST),
        source(uri=CODE, digest="sha256:A"),
        "spec.source.digest: ",
        DIGESTS,
    ),
    of_spec(
        TJ,
        "a digest is about an archive",
        source(uri=CODE, digest=DIGEST),
        source(git=REPOSITORY, digest=DIGEST),
        "spec.source: ",
        "digest applies to the archive at uri; leave it out",
    ),
    of_spec(
        TJ,
        "a source's name can be a ConfigMap's key",
        {"source": {"inline": {".hidden": ""}}},
        {"source": {"inline": {"..data": ""}}},
        "spec.source.inline: ",
        "each key must be a plain file name that does not begin with two dots",
    ),
    of_spec(
        TJ,
        "a source fits into a ConfigMap",
        {"source": {"inline": SMALL}},
        {"source": {"inline": LARGE}},
        "spec.source.inline: ",
        "the files together have more than 900,000 characters; put larger files into an image or an input",
    ),
    of_spec(
        TJ,
        "a parameter's name is one",
        {"parameters": {"a.b-c_1": ""}},
        {"parameters": {"a b": ""}},
        "spec.parameters: ",
        "each key must be a plain identifier",
    ),
    # Fields together
    of_spec(
        TJ,
        "a variable has one source",
        variable(value="a"),
        variable(value="a", valueFrom={"secretKeyRef": {"name": "a", "key": "b"}}),
        "spec.env[0]: ",
        "give either value or valueFrom, not both",
    ),
    of_spec(
        TJ,
        "a value comes from somewhere",
        reference("secretKeyRef", name="a", key="b"),
        variable(valueFrom={}),
        "spec.env[0].valueFrom: ",
        "give one of secretKeyRef and configMapKeyRef",
    ),
    of_spec(
        TJ,
        "the platform's variables are its own",
        {"env": [{"name": "ULTRA"}]},
        {"env": [{"name": "ULTRAMARINE_TASK"}]},
        "spec.env[0]: ",
        "the prefix ULTRAMARINE_ is reserved; choose another name",
    ),
    of_spec(
        TJ,
        "variables differ",
        {"env": [{"name": "A"}, {"name": "B"}]},
        {"env": [{"name": "A"}, {"name": "A"}]},
        "spec.env[1]: Duplicate value",
    ),
    # Unknown fields and wrong types
    of_spec(
        TJ,
        "a command is a list",
        {"command": "python"},
        {"command": "python train.py"},
        'command must be a list, such as [python, train.py]; use [sh, -c, "python train.py"] for a shell',
    ),
    of_spec(TJ, "a command is a list of words", {"command": ["ls"]}, {"command": ["ls -l"]}, "must be a list"),
    *(
        of_spec(
            TJ,
            f"a parameter is a plain value, and not {odd}",
            {"parameters": {"rate": plain}},
            {"parameters": {"rate": odd}},
            "spec.parameters.rate must be a text, a number or a boolean; write anything else as a text in quotes",
        )
        for plain, odd in ((0.1, {"a": 1}), (3, {}), (True, [1]), ("x", []), (1e-5, {"a": {"b": []}}))
    ),
    of_spec(
        TJ,
        "a variable's value is plain",
        variable(value=1.5),
        variable(value=[]),
        "spec.env: value of A must be a text, a number or a boolean; write anything else as a text in quotes",
    ),
    # References
    *(
        of_spec(
            TJ,
            f"{lost} leads somewhere",
            {"args": [f"$({kind}.{there})"], "outputs": {"model": None}},
            {"args": ["--fast", f"--a=$({kind}.{there}) b $({kind}.{lost})"], "outputs": {"model": None}},
            f"$({kind}.{lost}) names no {word}; {word}s are: {there}; correct the name, or add it to spec.{field}",
        )
        for kind, there, lost, word, field in (
            ("inputs", "data", "dta", "input", "inputs"),
            ("outputs", "report", "Report", "output", "outputs"),
            ("params", "rate", "", "parameter", "parameters"),
        )
    ),
    of_spec(
        TJ,
        "a variable has no reference",
        variable(value="$(HOME) $(data)"),
        variable(value="a $(inputs.data)"),
        "spec.env: value of A has a reference, which is filled in only in command and args; pass it there",
    ),
    of_spec(
        TJ,
        "there is something to refer to",
        {"command": ["$(inputs)", "$(HOME)", "$$(input.a)"], "inputs": None},
        {"command": ["a", "$(inputs.data)"], "inputs": None},
        "$(inputs.data) names no input; there are none; correct the name, or add it to spec.inputs",
    ),
    *(
        of_spec(
            TJ,
            f"{lost} is a reference in another spelling",
            {
                "command": ["sh", "-c", "echo $(date) $$(input.x) ${HOME} ${data} $(nosuch) x.$(inputs.data)", *NESTED],
                **DATA,
            },
            {"command": ["sh", "-c", f"cat {lost}"], **DATA},
            f"{lost} would reach the command as it is; write {meant}",
        )
        for lost, meant in (
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
    of_spec(
        TJ,
        "a variable of that name is what is meant",
        {"command": ["a", "$(data)"], "env": [{"name": "data", "value": "x"}], **DATA},
        {"command": ["a", "$(data)"], "env": [{"name": "other", "value": "x"}], **DATA},
        "$(data) would reach the command as it is; write $(inputs.data)",
    ),
    of_spec(
        TJ,
        "a variable has no reference in another spelling either",
        variable(value="$$(input.data) $(data)"),
        variable(value="a ${{inputs.data}}"),
        "spec.env: value of A has a reference, which is filled in only in command and args; pass it there",
    ),
    of_spec(
        TJ,
        "many names are not all listed",
        {"parameters": MANY, "command": ["$(params.a12)"]},
        {"parameters": MANY, "command": ["$(params.a13)"]},
        "$(params.a13) names no parameter; parameters are: ",
        " and 3 more; correct the name",
    ),
]
