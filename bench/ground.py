"""Ground of several benchmarks: a bare cluster with our types, an object storage, and simulated controllers."""

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
    """Cluster of etcd and API server with the platform's types and one namespace, and a storage for this process."""

    kube: cluster.Cluster
    kubectl: Kubectl
    store: ObjectStore
    folder: Path

    @property
    def storage(self) -> Storage:
        """Return the object storage."""
        return Storage(self.store.endpoint)

    @contextmanager
    def operator(self, **how: Any) -> Iterator[Operator]:
        """Yield an operator process that has not started; it is killed at the end of the block."""
        operator = Operator(self.kubectl, self.store, self.folder / "operator.log", **how)
        try:
            yield operator
        finally:
            operator.kill()


@contextmanager
def bare(namespace: str) -> Iterator[Ground]:
    """Yield a bare cluster, which has the namespace's name, until the end of the block."""
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
    """Yield a client of the API server with administrator's rights and no time limit."""
    url, tls = access(kube)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as session:
        yield Api(url, session, tls)


@asynccontextmanager
async def played(api: Api, namespace: str, storage: Storage) -> AsyncIterator[tuple[World, list[asyncio.Task[None]]]]:
    """Run the simulated controllers of tests/chaos in a namespace until the end of the block; yield their tasks."""
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
