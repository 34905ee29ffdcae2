"""Finds the clusters among handwritten digits on several nodes: k-means, one Allreduce for each iteration."""

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score

STEPS, CLUSTERS = 30, 10
CHECKPOINT = Path("/mnt/checkpoints/state.npz")


def main(output: Path) -> None:
    # mpirun has started this program for each rank and connected the world.
    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    images, digits = load_digits(return_X_y=True)
    mine = images[rank::size]
    rows = world.allreduce(len(mine))  # a sum over all ranks: the whole data set
    if rank == 0:
        print(f"world={size} rows={rows}", flush=True)

    start = 0
    centers = images[np.random.default_rng(7).choice(len(images), CLUSTERS, replace=False)]
    if CHECKPOINT.exists():  # each node has the newest checkpoint when the command starts
        state = np.load(CHECKPOINT)
        start, centers = int(state["step"]), state["centers"]

    for step in range(start + 1, STEPS + 1):
        nearest, distances = assign(mine, centers)
        sums = np.zeros((CLUSTERS, images.shape[1] + 2))  # of each cluster: pixels, rows, squared distances
        np.add.at(sums, nearest, np.column_stack([mine, np.ones(len(mine)), distances]))
        world.Allreduce(MPI.IN_PLACE, sums)
        pixels, counts, errors = sums[:, :-2], sums[:, -2:-1], sums[:, -1]
        centers = np.where(counts > 0, pixels / np.maximum(counts, 1), centers)
        if rank == 0 and step % 5 == 0:
            print(f"step={step} total_steps={STEPS} loss={errors.sum() / rows:.4f}", flush=True)
        if rank == 0 and step % 10 == 0:
            save(CHECKPOINT, step=step, centers=centers)

    if rank == 0:
        # Mutual information of digits and clusters, which had no labels: from 0 to 1.
        agreement = normalized_mutual_info_score(digits, assign(images, centers)[0])
        print(f"agreement={agreement:.4f}", flush=True)
        save(output / "model.npz", centers=centers)


def assign(images: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest center of each image, and the squared distance to it."""
    distances = ((images[:, None] - centers) ** 2).sum(axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def save(path: Path, **arrays: np.ndarray | int) -> None:
    """Write the file atomically."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/mnt/outputs/model"))
