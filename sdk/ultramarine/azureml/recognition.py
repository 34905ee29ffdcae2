"""Recognition: the schema of a document, by its $schema, its type, or its shape."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ultramarine.azureml.conda import is_conda
from ultramarine.azureml.deployments import is_deployment
from ultramarine.azureml.reading import Unreadable, read

JOB, SWEEP, DATA, ENVIRONMENT, MODEL = "command job", "sweep job", "data asset", "environment", "model"
ENDPOINT, DEPLOYMENT, CONDA = "online endpoint", "online deployment", "conda file"
PIPELINE, COMPONENT, SCHEDULE, IMPORT, DATASTORE = "pipeline job", "component", "schedule", "data import", "datastore"
NO_RESOURCE = ", for which no resource exists yet"
_DECLARED = (PIPELINE, COMPONENT, SCHEDULE, IMPORT, DATASTORE)  # whose $schema says more than their type
CONVERTED = (
    ENVIRONMENT,
    DATASTORE,
    DATA,
    MODEL,
    JOB,
    SWEEP,
    ENDPOINT,
    DEPLOYMENT,
    CONDA,
    PIPELINE,
    COMPONENT,
    SCHEDULE,
    IMPORT,
)

# Last part of a $schema, without punctuation, and the schema that it names.
_SCHEMAS = {
    "commandjob": JOB,
    "sweepjob": SWEEP,
    "data": DATA,
    "dataset": DATA,
    "asset": DATA,
    "environment": ENVIRONMENT,
    "model": MODEL,
    "pipelinejob": PIPELINE,
    "pipelinecomponent": COMPONENT,
    "commandcomponent": COMPONENT,
    "component": COMPONENT,
    "schedule": SCHEDULE,
    "dataimport": IMPORT,
    **dict.fromkeys(("azureblob", "azurefile", "azuredatalakegen1", "azuredatalakegen2", "onelake"), DATASTORE),
    **dict.fromkeys(("onelakedatastore", "blobdatastore", "azureblobdatastore"), DATASTORE),
    **{f"{prefix}onlineendpoint": ENDPOINT for prefix in ("", "managed", "kubernetes", "k8s")},
    **{f"{prefix}onlinedeployment": DEPLOYMENT for prefix in ("", "managed", "kubernetes", "k8s")},
}
_TYPES = {
    "command": JOB,
    "command_job": JOB,
    "sweep": SWEEP,
    "sweep_job": SWEEP,
    **dict.fromkeys(("uri_file", "uri_folder", "mltable"), DATA),
    **dict.fromkeys(("mlflow_model", "custom_model", "triton_model"), MODEL),
    **dict.fromkeys(("pipeline", "pipeline_job"), PIPELINE),
    **dict.fromkeys(("command_component", "pipeline_component"), COMPONENT),
    **dict.fromkeys(
        ("azure_blob", "azure_file", "azure_data_lake_gen1", "azure_data_lake_gen2", "one_lake"), DATASTORE
    ),
}
# Schemas without a counterpart: a pattern of $schema or type, what the file is, and what to use instead.
_OTHERS = (
    (r"spark", "a Spark job or component", "Run Spark in the command of a job, in an image of your own"),
    (r"automl", "an automated ML job", "Write a training script, and tune it by a Sweep"),
    (r"parallel", "a parallel job or component", "Process the files in the command of a job"),
    (r"\w*batch", "a batch endpoint or deployment", "Score in the command of a TrainingJob"),
    (r"data_?transfer", "a data transfer", "Copy the data in the command of a job"),
    (r"\w*monitor", "a monitor", "Collect requests by dataCollector, and compare them in a job"),
    (r"workspace|hub|project|registry", "a workspace or registry", "Use a namespace (docs/install.md)"),
    (r"connection|\w+connection", "a connection", "Use a Secret"),
    (r"\w*compute|computeinstance|synapse", "a compute target", "List its name in compute of ultramarine.yaml"),
    (r"promptflow", "a prompt flow", "Call the model in the script of a command job"),
    (r"feature", "a feature store or set", "Write features to the object storage in a job"),
    (r"modelversionpackage", "a model package", "Convert the deployment that uses it"),
    (r"finetuning", "a fine-tuning job", "Write the training script as a command job"),
    (r"deploymenttemplate", "a deployment template", "Convert the deployment that uses it"),
)


def schema_of(value: dict[str, Any]) -> str:
    """Return the schema of a document that converts, or a reason with a remedy why it does not."""
    declared = _declared(value)
    type = str(value.get("type") or "").lower()
    if is_conda(value):
        return CONDA
    if "batch" in declared:
        return refusal("batch")
    if is_deployment(value):
        return DEPLOYMENT
    if value.get("endpoint_name"):
        return refusal("batch")
    if reason := refusal("monitor" if "create_monitor" in value else declared):
        return reason
    if declared in _SCHEMAS and _SCHEMAS[declared] in _DECLARED and (declared != "pipelinejob" or _has_steps(value)):
        return _SCHEMAS[declared]
    if type in _TYPES and declared != "model":
        if not declared and _TYPES[type] == JOB and _is_component(value):
            return COMPONENT
        return IMPORT if _TYPES[type] == DATA and isinstance(value.get("source"), dict) else _TYPES[type]
    if declared in _SCHEMAS and not (declared == "commandjob" and refusal(type)):
        return _SCHEMAS[declared]
    return refusal(type) or _by_shape(value)


def is_azureml(path: Path) -> bool:
    """True if a file has a document of a schema of Azure ML, also of one that has no counterpart."""
    try:
        return any(is_of_azureml(document.value) for document in read(path))
    except Unreadable:
        return False


def is_of_azureml(value: dict[str, Any]) -> bool:
    """True if a document has a schema of Azure ML, also one without a counterpart."""
    schema = schema_of(value)
    return schema in CONVERTED or NO_RESOURCE in schema


def turns_traffic(path: Path) -> bool | None:
    """Return whether a file of online deployments has their endpoint's traffic too; None for another file."""
    try:
        documents = read(path)
    except Unreadable:
        return None
    endpoints = [document.value for document in documents if schema_of(document.value) == ENDPOINT]
    if not endpoints and all(schema_of(document.value) != DEPLOYMENT for document in documents):
        return None
    return any(endpoint.get("traffic") for endpoint in endpoints)


def _declared(value: dict[str, Any]) -> str:
    last = str(value.get("$schema") or "").rstrip("/").rpartition("/")[2]
    return re.sub(r"(\.schema)?\.(json|ya?ml)$", "", last).lower()


def refusal(word: str) -> str:
    """Return the reason why a schema or type does not convert; empty for another word."""
    for pattern, kind, remedy in _OTHERS:
        if word and re.match(pattern, word):
            return f"{kind}{NO_RESOURCE}. {remedy}"
    return ""


def _by_shape(value: dict[str, Any]) -> str:
    keys = value.keys()
    if {"apiVersion", "kind"} <= keys:
        return "a manifest of Kubernetes. Apply it as it is"
    if "search_space" in keys and keys & {"trial", "command", "objective"}:
        return SWEEP
    if "command" in keys and keys & {"environment", "code", "compute", "experiment_name"} and not _is_component(value):
        return JOB
    if keys & {"auth_mode", "traffic"} or ("deployments" in keys and "name" in keys):
        return ENDPOINT
    if keys >= {"target", "credentials"}:
        return refusal("connection")
    if keys >= {"nodes", "inputs", "outputs"}:
        return refusal("promptflow")
    if "index_columns" in keys:
        return refusal("feature")
    if isinstance(value.get("jobs"), dict) and "on" not in keys and keys & {"settings", "compute", "experiment_name"}:
        return PIPELINE
    if keys & {"trigger", "create_job", "import_data"}:
        return SCHEDULE
    if keys & {"replication_locations", "managed_network"} or keys == {"identity"}:
        return refusal("workspace")
    if keys and keys <= {"inputs", "outputs"}:
        return "the inputs of a batch endpoint. Give them to a job, or set them in spec.parameters of a PipelineRun"
    if keys & {"conda_file", "inference_config"} or ("name" in keys and keys & {"image", "docker", "build"}):
        return ENVIRONMENT
    if "name" in keys and "flavors" in keys:
        return MODEL
    if keys & {"path", "paths", "local_path"} and "name" in keys:
        return MODEL if re.search(r"model|\.(pkl|onnx|pt|joblib)$", f"{value['name']} {value.get('path')}") else DATA
    return "not an Azure ML file. Name files with a $schema, a type or a command"


def _has_steps(value: dict[str, Any]) -> bool:
    return bool({"jobs", "component"} & value.keys())


def _is_component(value: dict[str, Any]) -> bool:
    """True if the inputs declare types without values, as a component's do."""
    inputs = value.get("inputs")
    entries = list(inputs.values()) if isinstance(inputs, dict) else []
    return bool(entries) and all(
        isinstance(entry, dict) and "type" in entry and not entry.keys() & {"path", "value"} for entry in entries
    )
