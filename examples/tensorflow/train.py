"""Trains a classifier of handwritten digits on several nodes: MultiWorkerMirroredStrategy."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

STEPS, BATCH = 300, 64
CHECKPOINT = Path("/mnt/checkpoints/state.npz")


def main(output: Path) -> None:
    # Reads TF_CONFIG, which the trainer has set, and connects to the other nodes.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rank, world = strategy.cluster_resolver.task_id, strategy.num_replicas_in_sync
    (images, digits), held_out = data()
    images, digits = images[rank::world], digits[rank::world]
    rows = total(strategy, tf.constant(len(images)))  # a sum over all nodes: the whole data set
    if rank == 0:
        print(f"world={world} rows={rows}", flush=True)

    with strategy.scope():  # variables of this scope stay equal on all nodes
        tf.keras.utils.set_random_seed(7)
        layers = [tf.keras.layers.Dense(64, activation="relu"), tf.keras.layers.Dense(10)]
        model = tf.keras.Sequential([tf.keras.Input((64,)), *layers])
        optimizer = tf.keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
        variables, start = [*model.variables, *optimizer.variables], 0
        if CHECKPOINT.exists():  # each node has the newest checkpoint when the command starts
            *values, start = np.load(CHECKPOINT).values()
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def replica_step(images: tf.Tensor, digits: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(digits, model(images))
            loss = tf.reduce_mean(losses) / world
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )  # sums the gradients of all nodes
        return loss

    @tf.function
    def train_step(images: tf.Tensor, digits: tf.Tensor) -> tf.Tensor:
        return total(strategy, strategy.run(replica_step, (images, digits)))

    for step in range(int(start) + 1, STEPS + 1):
        # The step is the seed, so that a resumed command gets the same batches.
        chosen = np.random.default_rng(step).integers(len(images), size=BATCH)
        loss = train_step(tf.constant(images[chosen]), tf.constant(digits[chosen]))
        if rank == 0 and step % 20 == 0:
            print(f"step={step} total_steps={STEPS} loss={loss:.4f}", flush=True)
        if rank == 0 and step % 100 == 0:
            part = CHECKPOINT.with_name("part.npz")
            np.savez(part, *(variable.numpy() for variable in variables), step)
            part.replace(CHECKPOINT)  # atomic

    if rank == 0:
        images, digits = held_out
        accuracy = (model(images).numpy().argmax(axis=1) == digits).mean()
        print(f"accuracy={accuracy:.4f}", flush=True)
        model.save(output / "model.keras")


def total(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """Return the sum of a value over all nodes."""
    return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images of 8 x 8 pixels and their digits: the training set, and a held-out fifth."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(images))
    images, digits = images[order].astype(np.float32) / 16, digits[order].astype(np.int32)
    fifth = len(images) // 5
    return (images[fifth:], digits[fifth:]), (images[:fifth], digits[:fifth])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/mnt/outputs/model"))
