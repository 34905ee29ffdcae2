"""Parts of a run's log."""

from __future__ import annotations

from ultramarine.runs.parts import NodePart, TrialPart


def test_a_workers_log_is_cut_by_trials() -> None:
    """Workers do not disturb each other; what a command prints about trials begins none."""
    part = TrialPart(3)
    lines = [
        ("a", "ultramarine-trainer: trial 3 begins: x=1", True),
        ("b", "ultramarine-trainer: trial 4 begins: x=2", False),
        ("a", "loss=0.5", True),
        ("b", "loss=0.25", False),
        ("a", "trial 5 begins: soon", True),
        ("a", "ultramarine-trainer: trial 3: Succeeded", True),
        ("a", "ultramarine-trainer: trial 33 begins: x=3", False),
        ("a", "loss=0.125", False),
    ]
    assert [part.has_line(pod, line) for pod, line, _ in lines] == [kept for _, _, kept in lines]


def test_a_pod_is_of_the_node_in_its_name() -> None:
    """Digits of the job's own name do not count."""
    part = NodePart(1)
    pods = ("churn-1-abcde", "churn-11-abcde", "churn-1-0-abcde", "churn-0-1-abcde")
    assert [pod for pod in pods if part.has_pod(pod)] == ["churn-1-abcde", "churn-0-1-abcde"]
