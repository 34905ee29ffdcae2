"""Make MLflow's accounts as the mounted Secret has them, and each namespace's experiment, before the server starts."""

import os
from pathlib import Path

from mlflow.entities import LifecycleStage
from mlflow.server.auth import store as accounts
from mlflow.server.auth.config import read_auth_config
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

ADMIN, NAMESPACE = "admin", "namespace-"


def add_account(name: str, password: str) -> None:
    """Make an account, or give it this password again."""
    if not accounts.has_user(name):
        accounts.create_user(name, password, is_admin=name == ADMIN)
    elif not accounts.authenticate_user(name, password):
        accounts.update_user(name, password)


def give_experiment(runs: SqlAlchemyStore, account: str) -> None:
    """Give an account the experiment that has the namespace's name, so that no other account can take the name."""
    name = account.removeprefix(NAMESPACE)
    experiment = runs.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else runs.create_experiment(name)
    if experiment and experiment.lifecycle_stage == LifecycleStage.DELETED:
        runs.restore_experiment(experiment_id)
    managed = {grant.experiment_id for grant in accounts.list_experiment_permissions(account)}
    if experiment_id not in managed:
        accounts.delete_grants_for_resource("experiment", experiment_id)  # of an account that made it first
        accounts.create_experiment_permission(experiment_id, account, "MANAGE")


accounts.init_db(read_auth_config().database_uri)
runs = SqlAlchemyStore(os.environ["MLFLOW_BACKEND_STORE_URI"], "mlflow-artifacts:/")
for file in Path("/accounts").iterdir():
    if file.name == ADMIN or file.name.startswith(NAMESPACE):
        add_account(file.name, file.read_text())
    if file.name.startswith(NAMESPACE):
        give_experiment(runs, file.name)
