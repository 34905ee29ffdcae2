"""Models: versions, aliases, and files from and to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from ultramarine_contract.errors import InvalidSpec, UltramarineError, listed
from ultramarine_contract.formats import CODE_EXECUTING_FORMATS, CUSTOM, FORMATS, HEAD, known_formats, models_among
from ultramarine_contract.locations import files_below
from ultramarine_contract.meta import API_VERSION, MODEL, MODEL_VERSION, ONLINE_ENDPOINT, Manifest
from ultramarine_contract.mlflow_folders import FILE_KEYS, MODEL_FILE, flavors
from ultramarine_contract.trusted_types import remedy_for, untrusted_in

from .kube.errors import NotFound
from .suggestions import suggest
from .versions.series import LATEST, Series, is_ready, why

if TYPE_CHECKING:
    from ultramarine_contract.common import FileEntry
    from ultramarine_contract.storage import Progress

    from .client import Client

_CHECK_SECONDS = 300.0  # for which a new version may be checked and compiled


class InUse(UltramarineError):
    """The version is served or has an alias."""

    reason = "InUse"


class Models:
    """The models of a namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cluster = client.cluster
        self._series = Series(client, "model", MODEL, MODEL_VERSION)

    def versions(self, model: str) -> list[Manifest]:
        """Return the ModelVersions of a model, the newest first. Raises NotFound with the nearest name."""
        return self._series.versions(model)

    def version(self, reference: str) -> Manifest:
        """Return the ModelVersion of MODEL@VERSION, MODEL@ALIAS, or the newest ready one of MODEL and MODEL@latest."""
        return self._series.find(reference)

    def _any(self, reference: str) -> Manifest:
        """Return the ModelVersion of MODEL@VERSION or MODEL@ALIAS, or the newest one of MODEL, ready or not."""
        model, _, selected = reference.partition("@")
        versions = self.versions(model)
        if selected in ("", LATEST):
            return versions[0]
        return self._series.selected(model, versions, selected)

    def aliases(self, model: str) -> dict[str, str]:
        """Return the version's number of each alias; empty if the model has none."""
        return self._series.aliases(model)

    def users(self, version: Manifest) -> list[str]:
        """Return the endpoints that serve a version, as their status names it."""
        name = version["metadata"]["name"]
        return [
            str(endpoint["metadata"]["name"])
            for endpoint in self._cluster.list(ONLINE_ENDPOINT)
            for entry in (endpoint.get("status") or {}).get("deployments") or []
            if entry.get("modelVersion") == name
        ]

    def promote(self, reference: str, alias: str) -> Manifest:
        """Let an alias lead to a version, and return that version. Endpoints that name the alias follow.

        Raises InvalidSpec for a version that is not ready.
        """
        return self._series.promote(reference, alias)

    def add(
        self,
        path: Path | str,
        model: str,
        format: str = "",
        *,
        allow_code_execution: bool = False,
        progress: Progress | None = None,
    ) -> Manifest:
        """Upload a file or folder, and register it as the next version of `model`. Returns the ModelVersion.

        The Model is made if it does not exist. `format` is detected from the files if it is empty. Raises InvalidSpec
        for files without a model, and for files that run code when they are loaded unless `allow_code_execution`.
        """
        from .storage.uploads import upload_local_paths

        path = Path(path)
        format = format_of(path, format)
        if needs_consent(path, format) and not allow_code_execution:
            raise InvalidSpec(
                f"{path} has the format {format}, which runs its maker's code when it is loaded. Repeat with"
                " --allow-code-execution if you trust it."
            )
        if not allow_code_execution and (names := _unknown_types(path, format)):
            remedy = remedy_for(names, "repeat with --allow-code-execution if you trust it")
            raise InvalidSpec(f"{path} holds types that are not known to be safe: {listed(names)}; {remedy}.")
        spec: dict[str, Any] = {"model": model, "path": str(path), "format": {"name": format}}
        if allow_code_execution:
            spec["allowCodeExecution"] = True
        manifest: Manifest = {"apiVersion": API_VERSION, "kind": "ModelVersion", "spec": spec}
        manifest = upload_local_paths(self._client.platform, manifest, progress=progress)
        self._series.ensure_parent(model)
        return self._series.register(model, dict(manifest["spec"]))

    def trust(self, reference: str) -> Manifest:
        """Let servers load a version although its format runs its maker's code, and return the version."""
        name = str(self._any(reference)["metadata"]["name"])
        return self._cluster.patch(MODEL_VERSION, name, {"spec": {"allowCodeExecution": True}})

    def lacks_trust(self, version: Manifest) -> bool:
        """True if no server loads the version before its author's code is trusted."""
        spec = version["spec"]
        runs_code = spec["format"]["name"] in CODE_EXECUTING_FORMATS or spec["format"].get("untrustedTypes")
        if not runs_code or spec.get("allowCodeExecution"):
            return False
        try:
            model = self._cluster.get(MODEL, spec["model"])
        except NotFound:
            return True
        return not (model["spec"].get("trust") or {}).get("allowCodeExecution")

    def files(self, version: Manifest) -> list[FileEntry]:
        """Return path and size of each file of a version. Raises StorageError."""
        from .storage.artifacts import files_of

        return files_of(self._client.platform.storage, str(version["spec"]["uri"]))

    def signature(self, version: Manifest) -> dict[str, Any]:
        """Return inputs and outputs: those of the spec, or what a server that serves the version has inferred.

        Empty if no endpoint serves the version, or a script does. Raises UltramarineError with the cause if endpoints
        serve it and none answers.
        """
        if signature := version["spec"].get("signature"):
            return dict(signature)
        problem: UltramarineError | None = None
        for endpoint in self._cluster.list(ONLINE_ENDPOINT):
            name = str(endpoint["metadata"]["name"])
            for entry in (endpoint.get("status") or {}).get("deployments") or []:
                if entry.get("modelVersion") != version["metadata"]["name"]:
                    continue
                if not entry.get("readyReplicas"):
                    problem = UltramarineError(f"deployment {entry['name']} of endpoint {name} has no ready pod")
                    continue
                try:
                    made = self._client.endpoint(name).signature(entry["name"])
                except UltramarineError as error:  # without a key, for one
                    problem = error
                    continue
                if made:
                    return made.document()
        if problem:
            raise problem
        return {}

    def wait(self, version: Manifest) -> Manifest:
        """Return a version once it is ready. Raises NotReady with the cause."""
        from .endpoints import NotReady

        name = version["metadata"]["name"]
        latest = version
        for event in self._cluster.watch(MODEL_VERSION, name, seconds=_CHECK_SECONDS):
            latest = event.object
            if is_ready(latest):
                return latest
            if (latest.get("status") or {}).get("state") in ("Refused", "Invalid"):
                break
        raise NotReady(f"ModelVersion {name} is not ready: {why(latest)}")

    def download(self, reference: str, folder: Path | str = "", progress: Progress | None = None) -> Path:
        """Fetch the files of a version into a folder, checked by their digest, and return it.

        The default is MODEL-VERSION. An interrupted download continues. Raises FileInvalid for a folder with other
        content.
        """
        return self._series.download(reference, folder, progress)

    def check_unused(self, model: str) -> None:
        """Raise InUse if an endpoint follows an alias of a Model, which would be lost with the Model."""
        for endpoint in self._cluster.list(ONLINE_ENDPOINT):
            for deployment in endpoint["spec"]["deployments"]:
                name, _, selected = str(deployment.get("model") or "").partition("@")
                if name == model and selected in self.aliases(model):
                    raise InUse(
                        f"endpoint {endpoint['metadata']['name']} follows {model}@{selected}, an alias that would be"
                        " deleted too. Deploy a version by its number there first."
                    )

    def delete(self, reference: str) -> str:
        """Delete a version, and return its name. Raises InUse if an alias or an endpoint names it.

        Its files stay unless the Model's deletionPolicy is Delete.
        """
        version = self.version(reference)
        name, model = str(version["metadata"]["name"]), str(version["spec"]["model"])
        leading = [alias for alias, target in self.aliases(model).items() if target == version["spec"]["version"]]
        if leading:
            raise InUse(f"alias {leading[0]} of model {model} leads to {name}. Promote another version first.")
        if users := self.users(version):
            raise InUse(f"endpoint {users[0]} serves {name}. Deploy another version there first.")
        self._cluster.delete(MODEL_VERSION, name)
        return name


def needs_consent(path: Path, format: str) -> bool:
    """Return True for files whose loading runs code of their maker, such as an MLflow model that only MLflow loads."""
    if format != "mlflow":
        return format in CODE_EXECUTING_FORMATS
    models = [file for _, file in files_below(path) if file.name == MODEL_FILE]
    named = flavors(models[0].read_text(errors="replace")) if len(models) == 1 else ()
    return bool(named) and not FILE_KEYS.keys() & named


def _unknown_types(path: Path, format: str) -> list[str]:
    """Return the types in the .skops files that a server does not load without consent."""
    if format != "sklearn":
        return []
    files = [path] if path.is_file() else [file for _, file in files_below(path) if file.suffix == ".skops"]
    try:
        return sorted({name for file in files for name in untrusted_in(file)})
    except (ValueError, BadZipFile):  # the platform's check of the version says so
        return []


def format_of(path: Path, format: str = "") -> str:
    """Return the format of a model's files, detected unless it is given. Raises InvalidSpec."""
    if not path.exists():
        raise InvalidSpec(f"{path} does not exist. Give the file or the folder of a model.")
    if format and format not in FORMATS:
        hint = suggest(format, FORMATS, f"Formats: {listed(FORMATS)}.")
        raise InvalidSpec(f"no format is named {format!r}. {hint}")
    if format == CUSTOM:
        return format
    files = dict(files_below(path)) if path.is_dir() else {path.name: path}

    def head(name: str) -> bytes:
        with files[name].open("rb") as stream:
            return stream.read(HEAD)

    models = models_among(files, format, head)
    if not models and format:
        raise InvalidSpec(f"{path} has no file that the format {format} is read from: {known_formats()}.")
    if not models:
        raise InvalidSpec(f"{path} has no model that can be detected: {known_formats()}. Name its --format.")
    if len(models) > 1:
        raise InvalidSpec(f"{path} has several models: {listed(sorted(models))}. Give one of them.")
    return format or next(iter(models.values()))
