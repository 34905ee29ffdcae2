"""Trains a classifier of handwritten digits on several nodes: one jit over the devices of all of them."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

STEPS, RATE = 300, 0.5
SHAPES = {"w1": (64, 64), "b1": (64,), "w2": (64, 10), "b2": (10,)}
CHECKPOINT = Path("/mnt/checkpoints/state.npz")


def main(output: Path) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Set by the trainer.
    coordinator, processes = os.environ["JAX_COORDINATOR_ADDRESS"], int(os.environ["JAX_NUM_PROCESSES"])
    jax.distributed.initialize(coordinator, processes, int(os.environ["JAX_PROCESS_ID"]))
    rank, world = jax.process_index(), jax.process_count()
    mesh = Mesh(jax.devices(), "data")
    by_rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    (images, digits), held_out = data(multiple_of=jax.device_count())
    share = slice(rank * len(images) // world, (rank + 1) * len(images) // world)
    images = jax.make_array_from_process_local_data(by_rows, images[share])
    digits = jax.make_array_from_process_local_data(by_rows, digits[share])
    rows = jax.jit(jnp.sum, out_shardings=whole)(jnp.ones_like(digits))  # a sum over all processes
    if rank == 0:
        print(f"world={world} rows={rows}", flush=True)

    random, start = np.random.default_rng(7), 0
    weights = {name: random.normal(0, 0.15, shape).astype(np.float32) for name, shape in SHAPES.items()}
    if CHECKPOINT.exists():  # each node has the newest checkpoint when the command starts
        state = np.load(CHECKPOINT)
        weights, start = {name: state[name] for name in weights}, int(state["step"])
    weights = {name: jax.make_array_from_process_local_data(whole, value) for name, value in weights.items()}

    for step in range(start + 1, STEPS + 1):
        weights, loss = train_step(weights, images, digits)
        if rank == 0 and step % 20 == 0:
            print(f"step={step} total_steps={STEPS} loss={loss:.4f}", flush=True)
        if rank == 0 and step % 100 == 0:
            save(CHECKPOINT, step=step, **weights)

    if rank == 0:
        images, digits = held_out
        guesses = logits({name: np.asarray(value) for name, value in weights.items()}, images).argmax(axis=1)
        print(f"accuracy={(guesses == digits).mean():.4f}", flush=True)
        save(output / "model.npz", **weights)
    jax.distributed.shutdown()


def logits(weights: dict, images: jax.Array) -> jax.Array:
    return jax.nn.relu(images @ weights["w1"] + weights["b1"]) @ weights["w2"] + weights["b2"]


@jax.jit
def train_step(weights: dict, images: jax.Array, digits: jax.Array) -> tuple[dict, jax.Array]:
    """One step of gradient descent. Rows are on all nodes and weights on each, so XLA sums the gradients."""

    def loss(weights: dict) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits(weights, images)), digits[:, None], axis=1).mean()

    value, gradients = jax.value_and_grad(loss)(weights)
    return jax.tree.map(lambda weight, gradient: weight - RATE * gradient, weights, gradients), value


def data(multiple_of: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images of 8 x 8 pixels and their digits: the training set, and about a fifth that is held out."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(images))
    images, digits = images[order].astype(np.float32) / 16, digits[order].astype(np.int32)
    train = 1440 // multiple_of * multiple_of  # all devices have the same number of rows
    return (images[:train], digits[:train]), (images[train:], digits[train:])


def save(path: Path, **arrays: jax.Array | int) -> None:
    """Write the file atomically."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/mnt/outputs/model"))
