"""Trial of bench/sweep_early.py: a small network that learns digits and prints its accuracy after each epoch.

All seeds are fixed, so a trial's accuracy depends on its parameters alone.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def nudged(images: np.ndarray) -> np.ndarray:
    """Return the images, and copies of each shifted by a pixel in four directions, as more training data."""
    squares = images.reshape(-1, 8, 8)
    moved = [np.roll(squares, by, axis) for axis in (1, 2) for by in (-1, 1)]
    return np.concatenate([squares, *moved]).reshape(-1, 64)


def main() -> None:
    """Train the network for `epochs` epochs and print the accuracy after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, required=True, help="the learning rate")
    parser.add_argument("--alpha", type=float, required=True, help="the penalty of large weights")
    parser.add_argument("--hidden", type=int, required=True, help="hidden units")
    parser.add_argument("--epochs", type=int, required=True)
    chosen = parser.parse_args()
    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images / 16, labels, test_size=0.4, random_state=0, stratify=labels
    )
    train, train_labels = nudged(train), np.tile(train_labels, 5)
    network = MLPClassifier(
        (chosen.hidden,), learning_rate_init=chosen.lr, alpha=chosen.alpha, batch_size=16, random_state=0
    )
    for epoch in range(1, chosen.epochs + 1):
        network.partial_fit(train, train_labels, classes=np.arange(10))
        print(f"step={epoch} accuracy={network.score(test, test_labels):.4f}", flush=True)


if __name__ == "__main__":
    main()
