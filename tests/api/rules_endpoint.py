"""The rules of an OnlineEndpoint; see rules.py."""

from __future__ import annotations

from rules import ALONE, ENDPOINT, LONG, NAME, QUANTITY, Rule, called, endpoint_of, of_spec

RULES: list[Rule] = [
    # Names
    called(
        ENDPOINT,
        "a name fits into the names of its pods",
        LONG,
        LONG + "a",
        "metadata.name must have at most 40 characters",
    ),
    called(ENDPOINT, "a name can be a Service's", "a-b", "1a", "metadata.name must start with a letter"),
    called(
        ENDPOINT,
        "a name has no dot",
        "a-b",
        "a.b",
        "metadata.name must start with a letter and must not contain a dot: it becomes a Service's name",
    ),
    # What has to be there
    of_spec(
        ENDPOINT,
        "a deployment has a model",
        endpoint_of("m@1"),
        endpoint_of("m@1", model=None),
        "spec.deployments[0]: ",
        "a deployment serves either a model or a pool; give one of them",
    ),
    of_spec(
        ENDPOINT,
        "a warm-up's request fits into an environment variable",
        endpoint_of("m@1", warmup={"request": "x" * 8192}),
        endpoint_of("m@1", warmup={"request": "x" * 8193}),
        "spec.deployments[0].warmup.request: Too long",
    ),
    # What must not be empty
    # Numbers
    # Quantities
    *(
        rule
        for part in ("requests", "limits")
        for rule in (
            of_spec(
                ENDPOINT,
                f"{part} are quantities",
                endpoint_of("m@1", resources={part: {"cpu": "250m"}}),
                endpoint_of("m@1", resources={part: {"cpu": "lots"}}),
                f"spec.deployments[0].resources.{part}",
                "cpu",
                QUANTITY,
            ),
            of_spec(
                ENDPOINT,
                f"{part} are not negative",
                endpoint_of("m@1", resources={part: {"cpu": 1}}),
                endpoint_of("m@1", resources={part: {"cpu": -1}}),
                f"spec.deployments[0].resources.{part}.cpu in body should be greater than or equal to 0",
            ),
        )
    ),
    # One of a few words
    # Words with a form
    of_spec(
        ENDPOINT,
        "a deployment's name is one",
        endpoint_of("m@1"),
        endpoint_of("m@1", name="Blue"),
        "spec.deployments[0].name: ",
        NAME,
    ),
    of_spec(
        ENDPOINT,
        "a model comes with its version",
        endpoint_of("m@latest"),
        endpoint_of("m"),
        "spec.deployments[0].model: ",
        "must be MODEL@VERSION, MODEL@ALIAS or MODEL@latest, such as churn@3",
    ),
    # Fields together
    of_spec(
        ENDPOINT,
        "deployments differ",
        endpoint_of("m@1", "m@2"),
        endpoint_of("m@1", "m@2", name="a"),
        "spec.deployments[1]: Duplicate value",
    ),
    of_spec(
        ENDPOINT,
        "several deployments need traffic",
        endpoint_of("m@1") | {"traffic": None},
        {"traffic": None},
        "spec: ",
        "several deployments need traffic; set it, such as {blue: 100}",
    ),
    of_spec(
        ENDPOINT,
        "traffic goes to what there is",
        {"traffic": {"blue": 0, "green": 100}},
        {"traffic": {"red": 0}},
        "spec: ",
        "traffic names a deployment that spec.deployments does not have; correct the name or add the deployment",
    ),
    of_spec(
        ENDPOINT,
        "keys need authMode key",
        {"authMode": "key"},
        {"authMode": "none"},
        "spec: ",
        "keysSecretRef needs authMode: key; remove one of the two",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"traffic is {reason}",
            {"traffic": kept},
            {"traffic": broken},
            "spec.traffic: ",
            "traffic must sum to 100; it is the percentage of all requests",
        )
        for reason, kept, broken in (
            ("not less than all requests", {"blue": 90, "green": 10}, {"blue": 89, "green": 10}),
            ("not more than all requests", {"blue": 50, "green": 50}, {"blue": 50, "green": 51}),
            ("for somebody", {"blue": 100, "green": 0}, {"blue": 0, "green": 0}),
        )
    ),
    of_spec(
        ENDPOINT,
        "copies go to what there is",
        {"mirrorTraffic": {"green": 10}},
        {"mirrorTraffic": {"red": 10}},
        "spec: ",
        "mirrorTraffic names a deployment that spec.deployments does not have; correct the name or add the deployment",
    ),
    of_spec(
        ENDPOINT,
        "copies go to who does not answer",
        {"mirrorTraffic": {"green": 10, "blue": 0}},
        {"mirrorTraffic": {"blue": 10}},
        "spec: ",
        "mirrorTraffic names a deployment that answers requests itself; mirror to a deployment whose traffic is 0",
    ),
    of_spec(
        ENDPOINT,
        "the only deployment gets no copies",
        {"mirrorTraffic": None},
        {**ALONE, "mirrorTraffic": {"a": 10}, "traffic": None, "deployments": [{"name": "a", "model": "m@1"}]},
        "spec: ",
        "mirrorTraffic names a deployment that answers requests itself; mirror to a deployment whose traffic is 0",
    ),
    # Unknown fields and wrong types
    of_spec(
        ENDPOINT,
        "unknown fields in lists are refused",
        endpoint_of("m@1"),
        endpoint_of("m@1", replica=1),
        'unknown field "spec.deployments[0].replica"',
    ),
    of_spec(
        ENDPOINT,
        "replicas are a number",
        endpoint_of("m@1", replicas=2),
        endpoint_of("m@1", replicas="2"),
        "spec.deployments[0].replicas in body must be of type integer",
    ),
]
