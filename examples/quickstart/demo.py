"""Demo of `make demo`: from training to prediction, on a real cluster and real data.

It starts a Kubernetes cluster if none is there, and installs the chart. It puts the breast-cancer data set of
scikit-learn into the bucket, applies the manifests of this folder, and sends held-out rows to the endpoint. The
optional chapter runs the pipeline of examples/pipeline on the same data.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from ultramarine import Client
from ultramarine.cli.graphs import graph
from ultramarine.cli.pipelines import follow_steps
from ultramarine.cli.session import Session
from ultramarine.files.reading import load
from ultramarine.runs.pipelines import pipeline_in, run_manifest
from ultramarine_cluster import target as targets
from ultramarine_cluster.console import minutes, say
from ultramarine_cluster.errors import ClusterError
from ultramarine_cluster.target import Target
from ultramarine_contract.errors import UltramarineError

HERE = Path(__file__).parent
PIPELINE = "examples/pipeline"
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
SECONDS = 300.0


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--context", default="", help="context of your kubeconfig; by default kind if Docker is running, "
        "otherwise the embedded cluster",
    )  # fmt: skip
    parser.add_argument("--embedded", action="store_true", help="use the embedded cluster in any case")
    parser.add_argument("--chapter", default="", choices=["", "pipeline"], help="chapter to go on with")
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
        session = session_of(target)
        with session.client as client:
            chapter_life(target, client)
            accuracy = chapter_predictions(client, *held_out)
            run = chapter_pipeline(session) if chosen.chapter else ""
    except (
        ClusterError,
        UltramarineError,
        TimeoutError,
        BotoCoreError,
        ClientError,
        subprocess.SubprocessError,
    ) as error:
        say(f"\n{what_failed(error)}")
        if target is not None:
            say(f"  logs: {targets.leave_logs(target, NAMESPACE)}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; run `make demo` again to continue, or `make down` to remove the cluster")
        return 130
    chapter(f"{7 if run else 6}. What exists now")
    say(
        f"Done in {minutes(time.monotonic() - started)}; accuracy {accuracy:.4f} on rows that the model had never seen."
    )
    say(target.run("get", "ultramarine", "-n", NAMESPACE))
    say(f"To use it from this shell:\n  {target.shown}\n")
    say("Inside the cluster:")
    say(f"  endpoint  http://{NAME}.{NAMESPACE}.svc      keys: Secret {NAME}-keys")
    say(f"  bucket    {BUCKET} at http://ultramarine-storage.{NAMESPACE}.svc:7070  keys: Secret ultramarine-storage")
    say("\nTo go on:" if run else "\nThree things to try next:")
    for command in following(run):
        say(f"  {command}")
    if target.where == "context":
        say(f"\nTo remove it: helm uninstall ultramarine -n {NAMESPACE}; kubectl delete namespace {NAMESPACE};")
        say("kubectl delete crd trainingjobs.ultramarine.dev sweeps.ultramarine.dev models.ultramarine.dev "
            "modelversions.ultramarine.dev onlineendpoints.ultramarine.dev")  # fmt: skip
    else:
        say("\n`make down` removes all of it.")
    return 0


def following(run: str) -> Sequence[str]:
    """Return the commands to go on with: those of the chapter on pipelines if it made a run."""
    command = f"ultramarine -n {NAMESPACE}"
    if not run:
        return (
            f"{command} describe tj {NAME}",
            f"{command} endpoints test {NAME}",
            f"ultramarine init tumors && cd tumors && {command} submit",
        )
    return (
        f"{command} run why {run} crown",
        f"{command} plan {PIPELINE}/pipeline.yaml --set first=true",
        f"{command} apply -f {PIPELINE}/endpoint.yaml",
        f"{command} apply -f {PIPELINE}/schedule.yaml",
    )


def what_failed(error: Exception) -> str:
    """Return the failed step, its cause and the remedy."""
    if isinstance(error, ClusterError):
        return str(error)
    if isinstance(error, UltramarineError):
        return f"{error.message}\n  what to do: ultramarine -n {NAMESPACE} describe tj {NAME}; the same for oe {NAME}"
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


def session_of(target: Target) -> Session:
    """Return the command's session in the demo's namespace; it has the SDK's client."""
    option, value = target.kubectl[-2:]
    return Session(NAMESPACE, kubeconfig=value) if option == "--kubeconfig" else Session(NAMESPACE, context=value)


def chapter_life(target: Target, client: Client) -> None:
    """Apply the manifests, and show job and endpoint until the endpoint is ready."""
    chapter("4. Train, register, serve")
    jobs = {job["metadata"]["name"]: (job.get("status") or {}).get("state") for job in client.list("trainingjobs")}
    if jobs.get(NAME) == "Failed":
        say("  the TrainingJob of an earlier run has failed; it is deleted and runs again")
        target.run("delete", "tj", NAME, "-n", NAMESPACE)
    for file in ("training.yaml", "endpoint.yaml"):
        output = target.run("apply", "-n", NAMESPACE, "-f", str(HERE / file)).strip()
        say(f"  $ kubectl apply -f examples/quickstart/{file}\n    {output}")
    start = time.monotonic()

    def show(text: str) -> None:
        say(f"  {time.monotonic() - start:5.1f} s  {text}")

    run = client.run(NAME)
    for update in run.stream():
        show(f"{NAME} prints: {update.text}" if update.type == "log" else f"{update.state:<10} {update.text}")
    run.wait(SECONDS)
    version = client.models.wait(client.get("modelversions", run.model_version))
    show(f"{'Ready':<10} ModelVersion {version['metadata']['name']}: {run.status.get('score', '')}")
    client.endpoint(NAME).wait(SECONDS, lambda text: show(f"{'Pending':<10} OnlineEndpoint {NAME}: {text}"))
    show(f"{'Ready':<10} OnlineEndpoint {NAME}")


def chapter_predictions(client: Client, rows: np.ndarray, answers: np.ndarray) -> float:
    """Send each held-out row to the endpoint in a request, and return the accuracy of the answers."""
    chapter("5. Predict rows that the model has never seen")
    endpoint = client.endpoint(NAME)
    names = load_breast_cancer().target_names
    predicted, seconds = [], []
    for number, row in enumerate(rows):
        before = time.perf_counter()
        outputs = endpoint.infer(row[None])
        seconds.append(time.perf_counter() - before)
        predicted.append(int(outputs["predict"][0]))
        if number < 5:
            share = outputs["predict_proba"].max()
            say(f"  row {number}: {names[predicted[-1]]:<9} ({share:.1%} sure), in truth {names[answers[number]]}")
    accuracy = float(np.mean(np.array(predicted) == answers))
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    say(f"  {len(rows)} requests of one row through the Kubernetes API: accuracy {accuracy:.4f},")
    say(f"  latency p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return accuracy


def chapter_pipeline(session: Session) -> str:
    """Run the example's pipeline to its end, draw it, and return the name of the run. Raises ClusterError."""
    chapter("6. A pipeline that publishes")
    say(f"  $ ultramarine run start {PIPELINE}/pipeline.yaml --set first=true")
    client = session.client
    pipeline = pipeline_in([document.manifest for document in load([HERE.parents[1] / PIPELINE / "pipeline.yaml"])])
    client.apply(pipeline)
    run = client.submit(run_manifest(pipeline["metadata"]["name"], "", {"first": True}))
    try:
        follow_steps(session, run.name)
    except typer.Exit:
        remedy = f"ultramarine -n {NAMESPACE} run show {run.name}"
        raise ClusterError(f"PipelineRun {run.name} has not succeeded", remedy, step="pipeline") from None
    if not session.progress.is_terminal:  # a terminal has shown it
        Console().print(graph(run.object, pipeline["spec"]))
    champion = client.models.version("nightly-cancer@champion")
    say(f"  nightly-cancer@champion is {champion['metadata']['name']}")
    return run.name


if __name__ == "__main__":
    sys.exit(main())
