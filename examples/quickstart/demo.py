"""Demo of `make demo`: from training to prediction, on a real cluster and real data.

It starts a Kubernetes cluster if none is there, and installs the chart. It puts the breast-cancer data set of
scikit-learn into the bucket, applies the manifests of this folder, and sends held-out rows to the endpoint.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from botocore.exceptions import BotoCoreError, ClientError
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from ultramarine_cluster import target as targets
from ultramarine_cluster.console import minutes, say
from ultramarine_cluster.errors import ClusterError
from ultramarine_cluster.target import Target

HERE = Path(__file__).parent
NAMESPACE = "ultramarine"
NAME = "breast-cancer"
BUCKET = "ultramarine"
# All pods run under the strictest level of Pod Security.
RESTRICTED = f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels: {{pod-security.kubernetes.io/enforce: restricted}}
"""
TRAINING_SECONDS = 300.0
SERVING_SECONDS = 180.0


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--context", default="", help="context of your kubeconfig; by default kind if Docker is running, "
        "otherwise the embedded cluster",
    )  # fmt: skip
    parser.add_argument("--embedded", action="store_true", help="use the embedded cluster in any case")
    chosen = parser.parse_args()
    started = time.monotonic()
    target = None
    try:
        chapter("1. A Kubernetes")
        target = targets.choose(chosen.context, own=chosen.embedded)
        chapter("2. The platform")
        target.run("apply", "--server-side", "-f", "-", input=RESTRICTED)
        targets.install(target, NAMESPACE)
        held_out = chapter_data(target)
        chapter_life(target)
        accuracy = chapter_predictions(target, *held_out)
    except (ClusterError, BotoCoreError, ClientError, httpx.HTTPError, subprocess.SubprocessError) as error:
        say(f"\n{what_failed(error)}")
        if target is not None:
            say(f"  logs: {targets.leave_logs(target, NAMESPACE)}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; run `make demo` again to continue, or `make down` to remove the cluster")
        return 130
    chapter("6. What exists now")
    say(
        f"Done in {minutes(time.monotonic() - started)}; accuracy {accuracy:.4f} on rows that the model had never seen."
    )
    say(target.run("get", "ultramarine", "-n", NAMESPACE))
    say(f"To use it from this shell:\n  {target.shown}\n")
    say("Inside the cluster:")
    say(f"  endpoint  http://{NAME}.{NAMESPACE}.svc      keys: Secret {NAME}-keys")
    say(f"  bucket    {BUCKET} at http://ultramarine-storage.{NAMESPACE}.svc:7070  keys: Secret ultramarine-storage")
    say("\nThree things to try next:")
    say(f"  ultramarine -n {NAMESPACE} describe tj {NAME}")
    say(f"  ultramarine -n {NAMESPACE} endpoints test {NAME}")
    say(f"  ultramarine init tumors && cd tumors && ultramarine -n {NAMESPACE} submit")
    if target.where == "context":
        say(f"\nTo remove it: helm uninstall ultramarine -n {NAMESPACE}; kubectl delete namespace {NAMESPACE};")
        say("kubectl delete crd trainingjobs.ultramarine.dev sweeps.ultramarine.dev models.ultramarine.dev "
            "modelversions.ultramarine.dev onlineendpoints.ultramarine.dev")  # fmt: skip
    else:
        say("\n`make down` removes all of it.")
    return 0


def what_failed(error: Exception) -> str:
    """Return the failed step, its cause and the remedy."""
    if isinstance(error, ClusterError):
        return str(error)
    if isinstance(error, subprocess.CalledProcessError):
        failed = f"`{' '.join(map(str, error.cmd))}` failed: {str(error.stderr).strip()}"
        remedy = f"if an object of an earlier run conflicts, kubectl -n {NAMESPACE} delete tj,oe {NAME}"
        return f"{failed}\n  what to do: {remedy}"
    remedy = f"kubectl -n {NAMESPACE} get pods, and kubectl logs of a pod that is not ready"
    return f"the cluster, the storage or the endpoint failed: {error}\n  what to do: {remedy}"


def chapter(title: str) -> None:
    """Print a heading."""
    say(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}")


def chapter_data(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Put the data into the bucket, and return the held-out rows with their answers."""
    chapter("3. The data")
    dataset = load_breast_cancer()
    train, test, train_answers, test_answers = train_test_split(
        dataset.data, dataset.target, test_size=0.25, random_state=7, stratify=dataset.target
    )
    with target.bucket(NAMESPACE) as storage:
        for name, features, answers in (("train", train, train_answers), ("held-out", test, test_answers)):
            key = f"shared/{NAME}/{name}.csv"
            table = csv_table([*dataset.feature_names, "target"], features, answers)
            storage.put_object(Bucket=BUCKET, Key=key, Body=table.encode())
            say(f"  s3://{BUCKET}/{key}: {len(features)} rows, {features.shape[1]} features")
    return test, test_answers


def csv_table(names: list[str], features: np.ndarray, answers: np.ndarray) -> str:
    """Return the text of a CSV file: a header, and a line for each row with its answer at the end."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([*row, answer] for row, answer in zip(features.tolist(), answers.tolist(), strict=True))
    return lines.getvalue()


def chapter_life(target: Target) -> None:
    """Apply the manifests, and show their objects until the endpoint is ready."""
    chapter("4. Train, register, serve")
    state = subprocess.run(
        [*target.kubectl, "get", "tj", NAME, "-n", NAMESPACE, "-o", "jsonpath={.status.state}"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    if state == "Failed":
        say("  the TrainingJob of an earlier run has failed; it is deleted and runs again")
        target.run("delete", "tj", NAME, "-n", NAMESPACE)
    for file in ("training.yaml", "endpoint.yaml"):
        output = target.run("apply", "-n", NAMESPACE, "-f", str(HERE / file)).strip()
        say(f"  $ kubectl apply -f examples/quickstart/{file}\n    {output}")
    progress = Progress(target)
    progress.follow("the training", "TrainingJob", TRAINING_SECONDS, _trained)
    progress.follow("the endpoint", "OnlineEndpoint", SERVING_SECONDS, _serves)


def _trained(job: Any) -> bool:
    status = job.get("status") or {}
    if status.get("state") in ("Failed", "Invalid"):
        failure = status.get("failure") or {}
        message = failure.get("message") or condition(job, "Accepted").get("message", "")
        raise ClusterError(
            f"the TrainingJob has failed: {message}\n{failure.get('tail', '')}",
            failure.get("hint") or f"kubectl -n {NAMESPACE} describe tj {NAME}",
            step="train",
        )
    return bool(status.get("state") == "Succeeded")


def _serves(endpoint: Any) -> bool:
    ready = condition(endpoint, "Ready")
    generation = endpoint["metadata"]["generation"]
    return (
        ready.get("status") == "True"
        and ready.get("observedGeneration") == generation
        and not condition(endpoint, "Reconciling")
    )


def condition(manifest: Any, type: str) -> Any:
    """Return the condition of that type, or an empty document."""
    conditions = (manifest.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == type), {})


class Progress:
    """Output with a line for each change of an object."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.start = time.monotonic()
        self.shown: dict[str, str] = {}

    def follow(self, step: str, kind: str, seconds: float, done: Any) -> None:
        """Show changes of all objects until `done` holds for the object of that kind."""
        end = time.monotonic() + seconds
        while True:
            objects = self.target.json("get", "tj,mv,oe", "-n", NAMESPACE)["items"]
            for manifest in objects:
                self._show(manifest)
            own = next((o for o in objects if o["kind"] == kind and o["metadata"]["name"] == NAME), None)
            if own is not None and done(own):
                return
            if time.monotonic() > end:
                last = self.shown.get(f"{kind}/{NAME}", "nothing")
                raise ClusterError(
                    f"{step} is not done after {seconds:.0f} s; last: {last}",
                    f"kubectl -n {NAMESPACE} describe {kind.lower()} {NAME}; "
                    f"kubectl -n {NAMESPACE} logs deployment/ultramarine-operator",
                    step=step,
                )
            time.sleep(0.5)

    def _show(self, manifest: Any) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        status = manifest.get("status") or {}
        if kind == "TrainingJob":
            word, message = status.get("state", ""), condition(manifest, "Running").get("message", "")
            if word == "Succeeded":
                succeeded = condition(manifest, "Succeeded")["message"]
                message = f"{status.get('score', '')}  {succeeded} ({status['duration']})"
        elif kind == "ModelVersion":
            word, message = status.get("state", ""), condition(manifest, "Ready").get("message", "")
        else:
            deployment = (status.get("deployments") or [{}])[0]
            word = deployment.get("state", "")
            message = deployment.get("message") or condition(manifest, "Ready").get("message", "")
        line = f"{word:<10} {message}"
        where = f"{kind}/{name}"
        if word and self.shown.get(where) != line:
            self.shown[where] = line
            say(f"  {time.monotonic() - self.start:5.1f} s  {kind + ' ' + name:<30} {line}")


def chapter_predictions(target: Target, rows: np.ndarray, answers: np.ndarray) -> float:
    """Send each held-out row to the endpoint in a request, and return the accuracy of the answers."""
    chapter("5. Predict rows that the model has never seen")
    key = target.secret(NAMESPACE, f"{NAME}-keys")["primary"]
    names = load_breast_cancer().target_names
    predicted, seconds = [], []
    with (
        target.reach(NAMESPACE, NAME, 80) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=10) as client,
    ):
        for number, row in enumerate(rows):
            tensor = {"name": "input", "datatype": "FP64", "shape": [1, len(row)], "data": row.tolist()}
            before = time.perf_counter()
            response = client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]})
            seconds.append(time.perf_counter() - before)
            if response.status_code != 200:
                raise ClusterError(
                    f"the endpoint answered {response.status_code}: {response.text}",
                    f"kubectl -n {NAMESPACE} describe oe {NAME}",
                    step="predict",
                )
            outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
            predicted.append(int(outputs["predict"][0]))
            if number < 5:
                share = max(outputs["predict_proba"])
                say(f"  row {number}: {names[predicted[-1]]:<9} ({share:.1%} sure), in truth {names[answers[number]]}")
    accuracy = float(np.mean(np.array(predicted) == answers))
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    path = "" if target.where == "embedded" else ", through kubectl port-forward, which is slow"
    say(f"  {len(rows)} requests of one row: accuracy {accuracy:.4f}, latency p50 {p50:.1f} ms, p99 {p99:.1f} ms{path}")
    return accuracy


if __name__ == "__main__":
    sys.exit(main())
