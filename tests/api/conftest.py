"""A real etcd and kube-apiserver for all API tests, with our CRDs in it, and an S3 server for the operator."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ultramarine
from accounts import account, admit
from bare import Api, eventually, free_lease, install, requests_to
from operator_process import Node, Operator
from stories import serving, status, there, trained, training, until
from ultramarine_cluster import cluster
from ultramarine_contract.meta import LEASE
from ultramarine_contract.storage import Keys, Storage
from unit.conftest import ObjectStore, object_store  # noqa: F401  the fixture of the unit tests serves here too

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def bare() -> Iterator[cluster.Cluster]:
    """One bare cluster, with a name of its own so that two runs do not meet."""
    with cluster.up("bare", name=f"api-{os.getpid()}") as running:
        install(running)
        yield running


@pytest.fixture(scope="session")
def namespace(bare: cluster.Cluster) -> Iterator[Callable[[], Api]]:
    """Makes a fresh namespace at each call."""
    with requests_to(bare) as http:

        def make() -> Api:
            name = f"team-{next(_numbers)}"
            http.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
            http.post(LEASE.path(name), json=free_lease(name)).raise_for_status()
            return Api(bare, http, name)

        yield make


@pytest.fixture
def api(namespace: Callable[[], Api]) -> Api:
    """The API, in a fresh namespace."""
    return namespace()


@pytest.fixture
def operator(api: Api, object_store: ObjectStore, tmp_path: Path) -> Iterator[Operator]:  # noqa: F811
    """The real operator, running, for the namespace of the test; it is started and killed as the test likes."""
    (object_store.folder / "lake").mkdir(exist_ok=True)
    process = Operator(api, object_store, tmp_path / "operator.log", forked=True)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def replica(api: Api, object_store: ObjectStore, tmp_path: Path) -> Iterator[Callable[..., Operator]]:  # noqa: F811
    """Makes an operator that runs as a service account of its own, by default with exactly the chart's rights."""
    (object_store.folder / "lake").mkdir(exist_ok=True)
    made: list[Operator] = []

    def make(name: str, rights: tuple[str, ...] = ("operator", "lease"), where: Api = api, **more: Any) -> Operator:
        config = account(where, name, tmp_path)
        admit(where, name, *rights)
        log = tmp_path / f"{where.namespace}-{name}.log"
        more = {"forked": "program" not in more, **more}
        made.append(replace(Operator(where, object_store, log, identity=name, kubeconfig=config), **more))
        return made[-1]

    yield make
    for operator in made:
        if operator.process is not None and operator.process.poll() is None:
            operator.send(signal.SIGCONT)
        operator.kill()


@pytest.fixture
def node(api: Api, object_store: ObjectStore) -> Node:  # noqa: F811
    """The hands that run pods and end Jobs."""
    return Node(api, object_store)


@pytest.fixture
def settled(api: Api, operator: Operator, node: Node) -> Api:
    """A namespace with a finished job, a running one, a model, its version and an endpoint that waits for pods."""
    trained(api, node, "churn")
    api.apply(training("busy"), serving("shop", "churn@latest"))
    node.start_pod("busy")
    until(api, "busy", "Running")
    eventually("the Deployment is there", lambda: there(api, "deployments", "shop-blue"))
    eventually("its keys are there", lambda: there(api, "secrets", "shop-keys"))
    node.see_deployment("shop-blue")
    eventually("it was seen", lambda: "0 of 2" in str(status(api, "oe", "shop")))
    return api


@pytest.fixture
def store(api: Api, object_store: ObjectStore) -> Storage:  # noqa: F811
    """The storage of the namespace, which its ConfigMap and its Secret describe as the chart makes them."""
    (object_store.folder / "lake").mkdir(exist_ok=True)
    facts = {"release": "ultramarine", "storageEndpoint": object_store.endpoint, "bucket": "lake"}
    api.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ultramarine-platform"}, "data": facts},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "ultramarine-storage"},
            "stringData": object_store.credentials,
        },
    )
    return Storage(object_store.endpoint, keys=Keys(object_store.access_key, object_store.secret_key))


@pytest.fixture
def client(bare: cluster.Cluster, api: Api, store: Storage) -> Iterator[ultramarine.Client]:
    """A client in a fresh namespace."""
    with ultramarine.Client(kubeconfig=str(bare.kubeconfig), namespace=api.namespace) as client:
        yield client
