"""Online deployments: a deployment of an OnlineEndpoint with a scoring script, a model or a container."""

from __future__ import annotations

import re
from typing import Any

from ultramarine_contract.meta import Manifest

from ultramarine.azureml.commands import References, environment_variables
from ultramarine.azureml.compute import compute_of, container_resources
from ultramarine.azureml.context import Context, Names, Refused, object_name
from ultramarine.azureml.environments import Resolved, resolve
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.models import ModelTarget, model_of
from ultramarine.azureml.sources import source_of

AZURE_MODELS = re.compile(r"/var/azureml-app/azureml-models(/[^/:;]+/[^/:;]+)?")
SERVER_PORT = 5001  # of Azure's own inference server
LOST = {
    "app_insights_enabled": ("has no counterpart", "Read metrics by Prometheus, and the pods' logs"),
    "egress_public_network_access": ("has no counterpart", "Use the chart's networkPolicies.egress"),
    "private_network_connection": ("has no counterpart", "Use the chart's networkPolicies.egress"),
    "model_mount_path": ("is /mnt/model", "Correct paths in the container's arguments and variables"),
    "description": ("is not kept", "Describe the endpoint in its own file"),
    "tags": ("are not kept", "Write them into the endpoint's file"),
    "package_model": ("has no counterpart", "The environment is built once by itself; remove the field"),
}
AUTOMATIC = frozenset({"target_utilization", "auto", "targetutilization"})
BATCH = frozenset({"mini_batch_size", "output_action", "error_threshold", "max_concurrency_per_instance"})
LIMITS = (
    ("request_timeout_ms", "timeoutSeconds", 1, 3_600_000),
    ("max_concurrent_requests_per_instance", "maxConcurrentRequests", 1, 10_000),
    ("max_queue_wait_ms", "maxQueueMilliseconds", 0, 600_000),
)


def convert_deployment(
    context: Context, fields: Fields, endpoint: str, names: Names
) -> tuple[Manifest, Manifest | None]:
    """Return a deployment with a free name of its endpoint's, and the data collector that it asks for."""
    text = fields.text("name") or "default"
    name = names.free("deployment", text)
    if name != text:
        fields.lose("name", f"{text} became {name}", "Use this name in traffic and in requests")
    deployment: Manifest = {"name": name}
    model = model_of(context, fields, object_name(f"{endpoint}-{name}"))
    environment = resolve(context, fields, is_image=model is None)
    if model is not None:
        deployment["model"] = model.reference
    _serve(context, fields, deployment, model, environment)
    _scale(fields, deployment)
    _place(context, fields, deployment)
    in_container = "container" in deployment
    variables = environment_variables(fields, References({}))
    for variable in variables if in_container else ():
        variable["value"] = AZURE_MODELS.sub("/mnt/model", variable["value"])
    if variables:
        deployment["env"] = variables
    _limit(fields, deployment, in_container)
    collector = _collector(context, fields, endpoint) if not in_container else None
    fields.take("endpoint_name")
    fields.close(LOST, ignored=("app_insights",))
    return deployment, collector


def _serve(
    context: Context, fields: Fields, deployment: Manifest, model: ModelTarget | None, environment: Resolved
) -> None:
    """Choose what answers: a scoring script, a container, or the platform's server."""
    code = fields.section("code_configuration")
    script = code.text("scoring_script").replace("\\", "/").removeprefix("./")
    if script and not script.endswith(".py") and environment.routes is not None:
        code.lose("code", f"{script} is not copied into the container", "Build it into the image")
        script = ""
    source = source_of(context, code, "code", f"{deployment['name']}-scoring")[0] if script else None
    if script and not source:
        code.lose("code", "is missing, so the script is not used", "Name the folder of the script in code")
    code.close()
    if source:
        deployment["scoring"] = {"source": source, "entry": _entry(code, script)}
        if environment.routes is not None:
            fields.lose(
                "environment",
                f"the platform's server replaces image {environment.image}",
                "Name the packages of the image in environment.requirements",
            )
        if model is None:
            raise Refused("has a scoring script and no model. Name a model, even a folder with one file")
    if not source and (environment.routes is not None or model is None):
        deployment["container"] = _container(fields, environment)
        if environment.requirements:
            fields.lose("environment", "packages of a conda file are not added to an image", "Build them in")
        return
    if not source and model is not None and model.format == "custom":
        fields.lose("model", "the platform's server does not read its format", "Write a script (docs/scoring.md)")
    if environment.reference:
        deployment["environment"] = environment.reference


def _entry(code: Fields, script: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\.py", script):
        return script
    entry = re.sub(r"[^A-Za-z0-9._-]", "_", script.rpartition("/")[2]).lstrip("._-") or "score"
    entry = entry if entry.endswith(".py") else f"{entry}.py"
    code.lose("scoring_script", f"{script} became {entry}", "Rename the script to a plain path that ends in .py")
    return entry


def _container(fields: Fields, environment: Resolved) -> Manifest:
    """Return the container of an image; Azure's server answers at port 5001 without an inference_config."""
    image = environment.image
    if not image or not re.fullmatch(r"[A-Za-z0-9][\w./:@-]*", image) or len(image) > 500:
        problem = "names no image that can be pulled" if image else "is missing, as is the model"
        fields.lose("environment", problem, "Name a model, or write the image into container.image")
        image = object_name(image or "image")
    elif environment.routes is None:
        fields.lose("environment", f"is assumed to be an image named {image}", "Write the image into container.image")
    routes = environment.routes or Fields(fields.document, [], fields.path)
    scoring = routes.section("scoring_route")
    port = _port(scoring) or SERVER_PORT
    path = scoring.text("path")
    if path and path not in ("/score", "/"):
        scoring.lose("path", f"clients send requests to {path} instead of /score", "Change the path in clients")
    container: Manifest = {"image": image, "ports": {"http": port}}
    for route, key, probe in (
        ("readiness_route", "readiness", "readiness_probe"),
        ("liveness_route", "liveness", "liveness_probe"),
    ):
        section = routes.section(route)
        if section and (section.whole("port", 1, 65_535) or port) != (scoring.whole("port", 1, 65_535) or port):
            section.lose("port", f"probes go to port {port}", "Let the server answer them there")
        settings = _probe(fields.section(probe), container if key == "readiness" else None)
        if text := section.text("path").split(" ")[0]:
            settings = {"path": text if text.startswith("/") else f"/{text}", **settings}
        if settings:
            container[key] = settings
        section.close()
    scoring.close()
    routes.close()
    return container


def _port(route: Fields) -> int | None:
    port = route.whole("port", 1, 65_535)
    if port is not None and port < 1024:
        route.lose("port", f"{port} became {port + 8000}; ports below 1024 need root", "Let the server listen there")
        return port + 8000
    return port


def _probe(probe: Fields, container: Manifest | None) -> Manifest:
    """Return settings of a probe; the initial delay and failures of a readiness probe bound the start."""
    settings: Manifest = {}
    for key, name, most in (
        ("period", "periodSeconds", 3600),
        ("timeout", "timeoutSeconds", 3600),
        ("failure_threshold", "failureThreshold", 1000),
    ):
        if (value := probe.whole(key, 1, most)) is not None:
            settings[name] = value
    delay = probe.whole("initial_delay", 0, 86_400)
    if container is not None and delay:
        container["startupSeconds"] = max(600, delay)
    if container is None and delay:
        probe.note("initial_delay", "a liveness probe begins when the container is ready")
    if (probe.whole("success_threshold", 1, 1000) or 1) > 1:
        probe.lose("success_threshold", "one answer suffices here", "Remove it")
    probe.close()
    return settings


def _scale(fields: Fields, deployment: Manifest) -> None:
    settings = fields.section("scale_settings")
    replicas = fields.whole("instance_count", 0, 1000)
    count = settings.whole("instance_count", 0, 1000)
    type = settings.text("type", "scale_type").lower()
    highest = settings.whole("max_instances", 1, 1000)
    lowest = settings.whole("min_instances", 1, 1000) or 1
    percent = settings.whole("target_utilization_percentage", 1, 100)
    if type not in ("", "default", "manual", *AUTOMATIC):
        key = "type" if "type" in settings else "scale_type"
        settings.lose(key, f"{type[:40]} is not a type of scaling", "Write default or target_utilization")
    if type not in AUTOMATIC:
        for key in ("min_instances", "max_instances", "target_utilization_percentage"):
            if key in settings:
                settings.lose(key, "the number of instances is fixed", "Set type: target_utilization to scale")
    settings.close({"polling_interval": ("has no counterpart", "The autoscaler's own interval applies; remove it")})
    if type in AUTOMATIC:
        deployment["autoscale"] = {
            "minReplicas": lowest,
            "maxReplicas": max(highest or lowest, lowest),
            "metric": "cpu",
            "target": percent or 70,
        }
    elif (number := count if count is not None else replicas) is not None:
        deployment["replicas"] = number


def _place(context: Context, fields: Fields, deployment: Manifest) -> None:
    own = container_resources(fields.section("resources")) or _early_resources(fields.section("resource_requirements"))
    compute = compute_of(fields, context.computes_of(fields), fields)
    resources: dict[str, Any] = own or dict(compute.resources)
    if "autoscale" in deployment and not any("cpu" in resources.get(part, {}) for part in ("requests", "limits")):
        resources["requests"] = {**resources.get("requests", {}), "cpu": "500m"}
        fields.lose("scale_settings", "scales by a reserved CPU of 500m", "Set resources.requests.cpu")
    if resources:
        deployment["resources"] = resources
    if compute.pod_template:
        deployment["podTemplate"] = dict(compute.pod_template)


def _early_resources(section: Fields) -> dict[str, Any]:
    """Return the resources of a deployment as early releases wrote them."""
    cpu, gigabytes, gpu = section.number("cpu"), section.number("memory_in_gb"), section.number("gpu")
    requests = {"cpu": f"{cpu:g}"} if cpu and cpu > 0 else {}
    if gigabytes and gigabytes > 0:
        requests["memory"] = f"{gigabytes * 1024:.0f}Mi"
    section.close()
    limits = {"nvidia.com/gpu": f"{gpu:.0f}"} if gpu and gpu > 0 else {}
    return {name: amounts for name, amounts in (("requests", requests), ("limits", limits)) if amounts}


def _limit(fields: Fields, deployment: Manifest, in_container: bool) -> None:
    section = fields.section("request_settings")
    settings: Manifest = {}
    for key, name, least, most in LIMITS:
        value = section.whole(key, least, most)
        if value is None:
            continue
        if in_container and key != LIMITS[0][0]:
            section.lose(key, "a container limits its requests by itself", "Set the limit in the server")
        else:
            settings[name] = max(1, -(-value // 1000)) if key == LIMITS[0][0] else value
    section.close()
    if settings:
        deployment["requestSettings"] = settings
    for probe in ("liveness_probe", "readiness_probe"):
        if not in_container and probe in fields:
            fields.lose(probe, "the platform's server has its own probes", "Remove it")


def _collector(context: Context, fields: Fields, endpoint: str) -> Manifest | None:
    section = fields.section("data_collector")
    collections = section.section("collections")
    rates = [number for number in (section.number("sampling_rate"),) if number is not None]
    enabled = {key for key in collections.keys if collections.section(key).truth("enabled")}
    for key in collections.keys:
        collection = collections.section(key)
        if enabled and key not in enabled:
            collection.lose("enabled", "requests and answers are collected together", "Drop its columns when you read")
        rates += [number for number in (collection.number("sampling_rate"),) if number is not None]
        if "data" in collection:
            collection.lose("data", "requests are collected as Parquet files of the endpoint", "See docs/collecting.md")
        collection.close(ignored=("client_id",))
        if key not in ("model_inputs", "model_outputs", "request", "response"):
            collections.lose(key, "is not collected by a name of its own", "Read whole requests, or log it")
    section.close({"rolling_rate": ("has no counterpart", "Files are closed every few minutes; remove it")})
    if not enabled:
        return None
    rate = min((number for number in rates if 0 < number <= 1), default=1.0)
    return {"samplingRate": rate, "uri": f"{context.location}/collected/{endpoint}/"}


def is_deployment(value: dict[str, Any]) -> bool:
    """True if a document has the shape of an online deployment."""
    keys = value.keys()
    if BATCH & keys:
        return False
    # `az ml online-deployment create --endpoint NAME` takes a file without endpoint_name.
    nameless = "model" in keys and bool(keys & {"code_configuration", "instance_type"}) and "$schema" not in keys
    return bool(value.get("endpoint_name")) or nameless
