"""The client: objects, runs, endpoints and files of one namespace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, overload

from ultramarine_contract.errors import InvalidSpec, UltramarineError, listed
from ultramarine_contract.meta import API_VERSION, ONLINE_ENDPOINT, PIPELINE, PIPELINE_RUN, SWEEP, Manifest, Resource

from .kinds import Kinds, UnknownKind
from .kube.client import Cluster, Manifests
from .kube.platform import NoPlatform, Platform

if TYPE_CHECKING:
    from ultramarine_contract.storage import Storage

    from .datasets import Datasets
    from .endpoints import Endpoint
    from .lineage import Lineage
    from .models import Models
    from .objects import Object, Sweep
    from .runs import Run
    from .storage.data import Data
    from .sweeps import SweepRun


class Ambiguous(UltramarineError):
    """Several objects have the name."""

    reason = "Ambiguous"


class Client:
    """A connection to one namespace of a cluster, found as kubectl finds it.

    Nothing is sent before the first call. Raises NoAccess if no cluster is configured.
    """

    def __init__(self, context: str = "", namespace: str = "", kubeconfig: str = "") -> None:
        self.cluster = Cluster.connect(context, namespace, kubeconfig)
        self.kinds = Kinds(self.cluster)
        self.platform = Platform(self.cluster)
        self._has_warned = False

    @property
    def namespace(self) -> str:
        """Namespace of the objects."""
        return self.cluster.namespace

    def close(self) -> None:
        """Close all connections and forwarded ports."""
        self.platform.close()
        self.cluster.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- Objects

    def get(self, kind: str, name: str) -> Manifest:
        """Return an object by kind (tj, trainingjob, ...) and name. Raises NotFound."""
        return self.cluster.get(self.kinds.named(kind), name)

    def list(self, kind: str, selector: str = "") -> Manifests:
        """Return the objects of a kind, perhaps only those with the labels of `selector`."""
        return self.cluster.list(self.kinds.named(kind), selector)

    def apply(
        self,
        manifest: Manifest | Object,
        dry_run: bool = False,
        force: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> Manifest:
        """Create or change an object, after the upload of the local paths that it names, and return it.

        A new OnlineEndpoint gets two keys, which stay on this machine too, since a data scientist may not read them
        later. `force` takes over fields that another writer owns. Raises Exists without it, and Rejected with the
        fields that are wrong.

        A namespace that no installation watches gets the object, as by kubectl and GitOps, since an administrator may
        add the namespace later. The client warns of it once. `note` gets that warning, and sentences about keys;
        without it, Python's `warnings` shows the warning.
        """
        from .storage.uploads import upload_local_paths

        manifest = upload_local_paths(self.platform, as_manifest(manifest), dry_run)
        resource = self.kinds.of(manifest)
        if dry_run:
            return self.cluster.apply(resource, manifest, True, force)
        if resource == ONLINE_ENDPOINT:
            from .serving.keys import write_with_keys

            applied = write_with_keys(
                self.cluster,
                manifest,
                lambda endpoint: self.cluster.apply(resource, endpoint, False, force),
                note or (lambda text: None),
            )
        else:
            applied = self.cluster.apply(resource, manifest, False, force)
        if resource.api_version == API_VERSION:
            self._warn_if_unwatched(note)
        return applied

    def create(self, resource: Resource, manifest: Manifest, dry_run: bool = False) -> Manifest:
        """Create an object that the operator handles, and return it.

        Raises Exists, Rejected, and NoPlatform if no installation watches the namespace: the object would wait there
        without end. Raises InvalidSpec for a PipelineRun that could not begin.
        """
        if not dry_run:
            self.platform.check()
        if resource == PIPELINE_RUN:
            self._check_run(manifest)
        return self.cluster.create(resource, manifest, dry_run)

    def _check_run(self, run: Manifest) -> None:
        from .kube.errors import NotFound
        from .runs.pipelines import check_run

        name, pipeline = (run.get("spec") or {}).get("pipeline"), None
        with suppress(NotFound):  # the run waits for it
            pipeline = self.cluster.get(PIPELINE, str(name)).get("spec") if name else None
        check_run(run, pipeline)

    def _warn_if_unwatched(self, note: Callable[[str], None] | None) -> None:
        if self._has_warned:
            return
        try:
            self.platform.check()
        except NoPlatform as error:
            self._has_warned = True
            text = f"what was applied waits without end: {error.message}"
            if note:
                note(f"Warning: {text}")
            else:
                warnings.warn(text, stacklevel=3)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and what belongs to it. Raises NotFound."""
        self.cluster.delete(self.kinds.named(kind), name)

    def kind_of(self, name: str) -> Resource:
        """Return the kind of the only object of the platform with this name. Raises NotFound, or Ambiguous."""
        from .kube.errors import NotFound

        resources = []
        for kind in self.kinds.ours():
            with suppress(NotFound):
                self.cluster.get(kind.resource, name)
                resources.append(kind.resource)
        if len(resources) == 1:
            return resources[0]
        names = listed(f"{resource.kind.lower()}/{name}" for resource in resources)
        if names:
            raise Ambiguous(f"several objects have the name {name}: {names}. Name one of them as KIND/NAME.")
        with suppress(UnknownKind):
            resource = self.kinds.named(name)
            raise NotFound(f"{name} is the kind {resource.kind}. Name an object too, such as {name}/churn.")
        message = f"no object in namespace {self.namespace} has the name {name}. `ultramarine get` lists all."
        raise NotFound(message, name=name)

    # ---- Runs

    @overload
    def submit(self, manifest: Sweep, dry_run: bool = False) -> SweepRun: ...

    @overload
    def submit(self, manifest: Manifest | Object, dry_run: bool = False) -> Run: ...

    def submit(self, manifest: Manifest | Object, dry_run: bool = False) -> Run:
        """Create a TrainingJob, Sweep or another run, after the upload of the local paths that it names.

        Raises Exists if the name is taken, Rejected with the fields that are wrong, and NoPlatform if no installation
        watches the namespace.
        """
        from .storage.uploads import upload_local_paths

        manifest = as_manifest(manifest)
        resource = self.kinds.of(manifest)
        if not dry_run:
            self.cluster.check_free(resource, manifest)
        manifest = upload_local_paths(self.platform, manifest, dry_run)
        made = self.create(resource, manifest, dry_run)
        return self._run(resource, str(made["metadata"]["name"]))

    def trigger(self, schedule: str) -> Run:
        """Start a run of a Schedule now, beside those at its times. Raises NotFound, and what submit() raises."""
        from .runs.schedules import start_run

        return self._run(*start_run(self, schedule))

    def run(self, name: str, kind: str = "trainingjob") -> Run:
        """Return a run that exists. Raises NotFound."""
        resource = self.kinds.named(kind)
        self.cluster.get(resource, name)
        return self._run(resource, name)

    def sweep(self, name: str) -> SweepRun:
        """Return the run of a Sweep that exists. Raises NotFound."""
        from .sweeps import SweepRun

        self.cluster.get(SWEEP, name)
        return SweepRun(self, SWEEP, name)

    def _run(self, resource: Resource, name: str) -> Run:
        from .runs import Run
        from .sweeps import SweepRun

        return (SweepRun if resource.kind == SWEEP.kind else Run)(self, resource, name)

    # ---- Models and endpoints

    def endpoint(self, name: str, key: str = "", ca: str = "") -> Endpoint:
        """Return an endpoint, which asks the cluster when it is used.

        `key` is a key or a token. `ca` is a file with the authority of its certificate, for clients inside the cluster.
        """
        from .endpoints import Endpoint

        return Endpoint(self, name, key, ca=ca)

    @cached_property
    def models(self) -> Models:
        """The models of the namespace."""
        from .models import Models

        return Models(self)

    def lineage(self, kind: str, name: str) -> Lineage:
        """Return where an object comes from and what came of it, such as `lineage("model", "churn@8")`."""
        from .lineage import lineage_of

        return lineage_of(self, kind, name)

    # ---- Data

    @cached_property
    def datasets(self) -> Datasets:
        """The datasets of the namespace."""
        from .datasets import Datasets

        return Datasets(self)

    @cached_property
    def data(self) -> Data:
        """Files of the namespace in the object storage: put, get, ls, rm."""
        from .storage.data import Data

        return Data(self.platform)

    @cached_property
    def storage(self) -> Storage:
        """The object storage of the platform, opened by the namespace's keys."""
        return self.platform.storage


def as_manifest(manifest: Manifest | Object) -> Manifest:
    """Return a copy of a manifest, or the manifest of a typed object. Raises InvalidSpec for a path or a text."""
    if isinstance(manifest, Mapping):
        return copy.deepcopy(dict(manifest))
    if not hasattr(manifest, "manifest"):
        raise InvalidSpec(
            f"expected a manifest or a typed object, not {manifest!r}. Read a file by"
            " ultramarine.TrainingJob.from_yaml(Path(FILE)), or run `ultramarine submit FILE`."
        )
    return manifest.manifest()
