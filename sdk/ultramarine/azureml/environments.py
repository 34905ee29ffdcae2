"""Environments: requirements of a conda file, and images, which only a container keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ultramarine.azureml.conda import conda_requirements, is_conda, requirements_of
from ultramarine.azureml.context import Asset, Context, metadata_of, object_name
from ultramarine.azureml.data import reference
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.reading import Unreadable
from ultramarine.azureml.report import shown

CURATED_NAME = re.compile(r"azureml-|acpt-|sklearn-\d", re.IGNORECASE)
# Packages that curated environments of Azure have beyond the platform's images, by a word of their names.
CURATED = {"pytorch": ["torch", "torchvision"], "acpt": ["torch", "torchvision"], "tensorflow": ["tensorflow"]}
IMAGE = (
    "became the platform's image, since pods need the platform's own programs",
    "If the run needs more than Python packages, build an image on the trainer's (docs/images.md) and name it",
)
BUILD = ("is not built", "Build the image on the trainer's (docs/images.md), and name it in image")


@dataclass
class Resolved:
    """Environment of a run: an object of the namespace or requirements, and the image for a container."""

    name: str = ""
    requirements: list[str] = field(default_factory=list)
    image: str = ""
    routes: Fields | None = None  # inference_config: the ports and paths of a server in the image

    @property
    def reference(self) -> dict[str, Any] | None:
        """Value of `environment` in a spec; None without packages."""
        if self.name:
            return {"name": self.name}
        return {"requirements": self.requirements} if self.requirements else None


def resolve(context: Context, owner: Fields, is_image: bool = False) -> Resolved:
    """Return the environment that a job or a deployment names or holds; with `is_image` a name may mean an image."""
    key = "environment"
    value = owner.take(key)
    if isinstance(value, dict):
        inline = owner.section(key)
        nested = inline.text("name") if set(inline.keys) <= {"name", "version"} else ""
        if not nested:
            return describe(context, inline)
        value = f"azureml:{nested}:{inline.text('version') or 'latest'}"
    if not isinstance(value, str) or not value.strip():
        return Resolved()
    text = value.strip()
    named = reference(text)
    if named is not None:
        is_image = is_image and "/registries/azureml/" not in text
        name = f"AzureML-{named[0]}" if "/registries/azureml/" in text else named[0]
        return _registered(context, owner, name, named[1], is_image)
    path = context.local(owner, text)
    if path.suffix not in (".yml", ".yaml"):
        return _registered(context, owner, text.removeprefix("azureml:"), "latest", is_image)
    try:
        document = context.part(owner, path)
    except Unreadable as error:
        owner.lose(key, f"{shown(path)} {error.message.partition('. ')[0]}", "Correct it, or list packages by hand")
        return Resolved()
    return describe(context, context.fields(document))


def _registered(context: Context, owner: Fields, name: str, version: str, is_image: bool) -> Resolved:
    asset = context.asset("environments", name, version, owner, "environment")
    if asset is not None and isinstance(asset.target, Resolved):
        return asset.target
    if CURATED_NAME.match(name):
        words = set(re.split(r"[^a-z]+", name.lower()))
        requirements = next((packages for word, packages in CURATED.items() if word in words), [])
        became = f"with {' and '.join(requirements)}" if requirements else "with its own packages"
        owner.lose(
            "environment",
            f"{name} of Azure became the platform's image {became}",
            "Add what else the code imports to environment.requirements",
        )
        return Resolved(requirements=list(requirements), image=name)
    target = object_name(name if version == "latest" else f"{name}-{version}")
    if is_image:
        return Resolved(image=f"{object_name(name)}:{version}")
    owner.lose(
        "environment",
        f"no file of this conversion defines environment {name}",
        f"Convert its file too, or apply an Environment {target}",
    )
    return Resolved(name=target)


def describe(context: Context, fields: Fields) -> Resolved:
    """Return the environment that a file or an inline section describes."""
    if is_conda(fields.document.value) and not fields.path:
        return Resolved(requirements=conda_requirements(fields))
    docker = fields.section("docker")
    image = fields.text("image") or docker.text("image")
    requirements = requirements_of(context, fields, "conda_file") + requirements_of(context, fields, "conda")
    routes = fields.section("inference_config") if "inference_config" in fields else None
    for owner in (fields, docker):
        if "build" in owner:
            section = owner.section("build")
            folder = section.text("path", "local_path", "context_uri") or "."
            dockerfile = section.text("dockerfile_path") or "Dockerfile"
            owner.lose("build", f"{dockerfile} in {folder} {BUILD[0]}", BUILD[1])
            image = image or f"{object_name(fields.text('name') or owner.document.file.parent.name)}:latest"
            section.close(ignored=("dockerfile",))
    if image and routes is None and "build" not in fields and "build" not in docker:
        fields.lose("image" if "image" in fields else "docker", f"{image} {IMAGE[0]}", IMAGE[1])
    docker.close()
    fields.close(
        {"environment_variables": ("are not part of an Environment", "Write them into env of the job or deployment")},
        ignored=("name", "version", "description", "tags", "path", "os_type", "stage", "datastore"),
    )
    return Resolved(requirements=requirements, image=image, routes=routes)


def define_environment(context: Context, asset: Asset) -> None:
    """Make an Environment of a file with packages; an image alone is used by the deployments that name it."""
    fields = context.fields(asset.document)
    metadata = metadata_of(fields)
    resolved = describe(context, fields)
    if resolved.requirements:
        text = f"{asset.name}-{asset.version}" if asset.version else asset.name
        resolved.name = context.names.free("Environment", text)
        spec = {"python": {"requirements": resolved.requirements}}
        context.add(asset.document, "Environment", resolved.name, spec, metadata)
    else:
        for key in ("description", "tags"):
            if key in fields:
                fields.note(key)
        context.note(asset.document, f"environment {asset.name}")
    asset.target = resolved
