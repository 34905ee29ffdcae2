"""What several benchmarks stand on: a bare cluster with our types, an object storage, and hands that play the rest."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from api.bare import Api as Kubectl
from api.bare import access, install, requests_to
from api.operator_process import BUCKET, Operator
from chaos.world import OTHERS, Api, World, selectors
from sights import follow
from ultramarine_cluster import cluster
from ultramarine_contract.storage import Storage
from ultramarine_operator.kinds import KINDS
from unit.conftest import ObjectStore, serving_store


@dataclass(frozen=True)
class Ground:
    """A cluster of etcd and API server, with our types and one namespace; and a storage that this process may use."""

    kube: cluster.Cluster
    kubectl: Kubectl
    store: ObjectStore
    folder: Path

    @property
    def storage(self) -> Storage:
        """The object storage."""
        return Storage(self.store.endpoint)

    @contextmanager
    def operator(self, **how: Any) -> Iterator[Operator]:
        """An operator as a process, still to be started; it is killed at the end of the block."""
        operator = Operator(self.kubectl, self.store, self.folder / "operator.log", **how)
        try:
            yield operator
        finally:
            operator.kill()


@contextmanager
def bare(namespace: str) -> Iterator[Ground]:
    """A bare cluster for the length of the block; it has the namespace's name, too."""
    with tempfile.TemporaryDirectory() as name, cluster.up("bare", name=namespace) as kube:
        install(kube)
        kube.run("create", "namespace", namespace)
        folder = Path(name)
        (folder / "buckets" / BUCKET).mkdir(parents=True)
        with serving_store(folder / "buckets") as store, requests_to(kube) as http:
            os.environ.update(store.credentials)
            yield Ground(kube, Kubectl(kube, http, namespace), store, folder)


@asynccontextmanager
async def asking(kube: cluster.Cluster) -> AsyncIterator[Api]:
    """The API server, asked as its administrator, for any length of time."""
    url, tls = access(kube)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as session:
        yield Api(url, session, tls)


@asynccontextmanager
async def played(api: Api, namespace: str, storage: Storage) -> AsyncIterator[tuple[World, list[asyncio.Task[None]]]]:
    """The hands of tests/chaos at work in a namespace until the end of the block, and the tasks that they are."""
    resources = {r.kind: r for r in (*(kind.resource for kind in KINDS), *OTHERS)}
    world = World(api, namespace, storage, resources, patience=60.0)
    types = selectors(tuple(kind.resource for kind in KINDS)).items()
    tasks = [asyncio.create_task(follow(api, kind, namespace, selector, world.see)) for kind, selector in types]
    tasks.append(asyncio.create_task(world.play()))
    try:
        yield world, tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
