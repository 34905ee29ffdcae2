"""Own code of a deployment: its Environment, its scoring script, and what its author gives to the pods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ultramarine.resources.environment import EnvironmentReference
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment
from ultramarine_contract import common as contract
from ultramarine_contract.errors import InvalidSpec, listed
from ultramarine_contract.meta import CONFIG_MAP, LABEL_NAME, Manifest, Ref, child_metadata, content_hash
from ultramarine_contract.serving_records import ScoringTask

from ....shared.environments import Awaited, Failed, Usable, find_environment
from ....shared.plan import Platform, Seen
from ....shared.podspec import scratch, template_volumes
from ....training.pods import credentials_volume, fetching_container, task_of, without_devices
from ..endpoint import LABEL_DEPLOYMENT, Endpoint, deployment_name

SERVER, SOURCE, TMP = "server", "source", "tmp"
ENVIRONMENT, SCORING = "environment", "scoring"  # volumes


def environment_of(endpoint: Endpoint, deployment: EndpointDeployment, seen: Seen) -> Usable | Awaited | Failed | None:
    """Find the Environment of a deployment; None if it has none. Raises InvalidSpec as `find_environment` does."""
    if deployment.environment is None:
        return None
    source = deployment.scoring.source if deployment.scoring else None
    return find_environment(endpoint, deployment.environment, seen, source=source)


def in_own_environment(deployment: EndpointDeployment, environment: EnvironmentReference | None) -> EndpointDeployment:
    """Return a deployment with the environment that its model asks for, unless its author decides about packages."""
    if environment is None or deployment.environment or deployment.scoring or deployment.container:
        return deployment
    return deployment.model_copy(update={"environment": environment})


def check_entry(deployment: EndpointDeployment) -> None:
    """Raise InvalidSpec if the files of an inline source lack the script."""
    scoring = deployment.scoring
    files = scoring.source.inline if scoring else None
    if scoring and files is not None and scoring.entry not in files:
        raise InvalidSpec(
            f"scoring.entry of deployment {deployment.name} is {scoring.entry}, but source.inline has only: "
            f"{listed(sorted(files))}; correct scoring.entry"
        )


def scoring_task(deployment: EndpointDeployment) -> ScoringTask | None:
    """Return the script that the server runs; None if it has none."""
    if deployment.scoring is None:
        return None
    source = deployment.scoring.source
    mounted = source.inline is not None or source.config_map is not None
    return ScoringTask(deployment.scoring.entry, None if mounted else task_of(source))


def script(endpoint: Endpoint, deployment: EndpointDeployment) -> Manifest | None:
    """Return the ConfigMap of an inline script; None without one.

    Its name has the digest of its content, so that pods of an earlier revision keep theirs.
    """
    name = _config_map_name(endpoint, deployment)
    inline = deployment.scoring.source.inline if deployment.scoring else None
    if inline is None:
        return None
    metadata = child_metadata(endpoint.manifest, name)
    metadata["labels"][LABEL_DEPLOYMENT] = deployment.name
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(inline), "immutable": True}


def _config_map_name(endpoint: Endpoint, deployment: EndpointDeployment) -> str:
    """Return the ConfigMap with the script: of an inline script, or the author's own; empty for another source."""
    source = deployment.scoring.source if deployment.scoring else None
    if source is not None and source.inline is not None:
        return f"{deployment_name(endpoint, deployment.name)}-scoring-{content_hash(source.inline)[:10]}"
    return source.config_map.name if source is not None and source.config_map is not None else ""


def missing_script(endpoint: Endpoint, deployment: EndpointDeployment) -> str:
    """Name the author's ConfigMap that has no script, with the remedy; empty for another source."""
    scoring = deployment.scoring
    if scoring is None or scoring.source.config_map is None:
        return ""
    name = scoring.source.config_map.name
    remedy = f"Create it with the key {scoring.entry}; the pod then starts by itself"
    return f"ConfigMap {name} not found in {endpoint.namespace}, or it is empty. {remedy}"


def why_loading(pod: Manifest, deployment: EndpointDeployment) -> str:
    """Say what the script of a pod that is not ready does, and since when; empty without a script that runs."""
    listed_statuses = (pod.get("status") or {}).get("containerStatuses") or []
    status: Manifest = next((status for status in listed_statuses if status.get("name") == SERVER), {})
    running = (status.get("state") or {}).get("running")
    if deployment.scoring is None or running is None or status.get("ready"):
        return ""
    meta, entry = pod["metadata"], deployment.scoring.entry
    name = meta["name"]
    log = f"ultramarine -n {meta['namespace']} endpoints logs {meta['labels'][LABEL_NAME]}"
    if status.get("started"):
        cause = "its process crashed or exceeded timeoutSeconds, and runs init() again"
        return f"{entry} of pod {name} no longer answers: {cause}; see {log}"
    since = f" since {start}" if (start := running.get("startedAt")) else ""
    return f"init() of {entry} in pod {name} runs{since}, and may take {contract.INIT_SECONDS} s; see {log}"


def superfluous_scripts(
    children: Iterable[Manifest], settled: Mapping[str, bool], needed: Iterable[Manifest]
) -> tuple[Ref, ...]:
    """Return scripts of earlier revisions that no pod has any more.

    `settled` are deployments of the spec, true if all their pods follow it; `needed` are objects to apply.
    """
    children = list(children)
    used = {m["metadata"]["name"] for m in needed if m["kind"] == "ConfigMap"}
    for child in children:
        pod = child["spec"]["template"]["spec"] if child["kind"] == "Deployment" else child.get("spec") or {}
        used |= {(volume.get("configMap") or {}).get("name") for volume in pod.get("volumes") or []}
    return tuple(
        Ref.to(CONFIG_MAP, child)
        for child in children
        if child["kind"] == "ConfigMap"
        and (owner := (child["metadata"].get("labels") or {}).get(LABEL_DEPLOYMENT)) is not None
        and child["metadata"]["name"] not in used
        and settled.get(owner, True)
    )


def authors_env(deployment: EndpointDeployment) -> Manifest:
    """Return the author's variables of a container: `env`, and `envFrom` if there is one.

    The platform's variables come first in `env`, so that no value of the author's gets into them by $(NAME).
    """
    sources = [source.model_dump(by_alias=True, exclude_defaults=True) for source in deployment.env_from]
    variables = [variable.model_dump(by_alias=True, exclude_none=True) for variable in deployment.env]
    return {"env": variables, **({"envFrom": sources} if sources else {})}


def revision_inputs(endpoint: Endpoint, deployment: EndpointDeployment) -> list[Manifest]:
    """Return what makes another revision besides the task; nothing for a deployment without own code."""
    fields = {"container", "env", "env_from", "pod_template"}
    own = deployment.model_dump(mode="json", include=fields, exclude_defaults=True)
    if name := _config_map_name(endpoint, deployment):
        own["scoring"] = name
    return [own] if own else []


def add_own_code(
    pod: Manifest, endpoint: Endpoint, deployment: EndpointDeployment, platform: Platform, trainer_image: str
) -> None:
    """Add the environment, the script, and the author's variables and volumes to a pod with the platform's server."""
    fetch, [server] = pod["initContainers"][0], pod["containers"]
    own = authors_env(deployment)
    server["env"] = [*server["env"], *own.pop("env")]
    server.update(own)
    volumes, mounts = template_volumes(deployment.pod_template)
    if deployment.environment is not None:
        volumes.append(scratch(ENVIRONMENT, server["resources"]))
        mount = {"name": ENVIRONMENT, "mountPath": contract.ENVIRONMENT_DIR}
        fetch["volumeMounts"] = [*fetch["volumeMounts"], mount]
        mounts.append({**mount, "readOnly": True})
    if (task := scoring_task(deployment)) is not None:
        if name := _config_map_name(endpoint, deployment):
            # Optional: a pod that hangs for a missing mount reports nothing, while the server names what is missing.
            volumes.append({"name": SCORING, "configMap": {"name": name, "optional": True}})
        else:
            volumes.append(scratch(SCORING, server["resources"]))
            assert task.source is not None
            folder = {"name": SCORING, "mountPath": contract.SCORING_DIR}
            resources = without_devices(server["resources"])
            fetching = fetching_container(task.source, folder, resources, platform, trainer_image)
            pod["initContainers"].insert(1, fetching)
            if task.source.git_secret:
                volumes.append(credentials_volume(task.source.git_secret))
        mounts.append({"name": SCORING, "mountPath": contract.SCORING_DIR, "readOnly": True})
    pod["volumes"] = [*pod["volumes"], *volumes]
    server["volumeMounts"] = [*server["volumeMounts"], *mounts]


def image_of(live: Manifest | None, container: str, group: str = "initContainers") -> str:
    """Return the image of an init container of a live Deployment, or of one in another group; empty without one."""
    pod = ((live or {}).get("spec") or {}).get("template", {}).get("spec") or {}
    images = (c.get("image") for c in pod.get(group) or [] if c.get("name") == container)
    return str(next(images, None) or "")


def own_image(live: Manifest) -> str:
    """Return the image of the server of a live Deployment; empty if it is that of the platform's containers."""
    image = image_of(live, SERVER, "containers")
    return "" if image == image_of(live, "fetch") else image
