"""Trains a classifier of handwritten digits on several nodes: DistributedDataParallel over gloo."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCH = 300, 64
CHECKPOINT = Path("/mnt/checkpoints/state.pt")


def main(output: Path) -> None:
    # Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which the trainer has set.
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(7)
    (images, digits), held_out = data()
    images, digits = images[rank::world], digits[rank::world]
    rows = torch.tensor(len(images))
    dist.all_reduce(rows)  # a sum over all ranks: the whole data set
    if rank == 0:
        print(f"world={world} rows={rows}", flush=True)

    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    start = 0
    if CHECKPOINT.exists():  # each node has the newest checkpoint when the command starts
        state = torch.load(CHECKPOINT)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    for step in range(start + 1, STEPS + 1):
        # The step is the seed, so that a resumed command gets the same batches.
        chosen = torch.randint(len(images), (BATCH,), generator=torch.Generator().manual_seed(step))
        loss = cross_entropy(model(images[chosen]), digits[chosen])
        optimizer.zero_grad()
        loss.backward()  # averages the gradients over all ranks
        optimizer.step()
        if rank == 0 and step % 20 == 0:
            print(f"step={step} total_steps={STEPS} loss={loss:.4f}", flush=True)
        if rank == 0 and step % 100 == 0:
            save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, CHECKPOINT)

    if rank == 0:
        images, digits = held_out
        accuracy = (model.module(images).argmax(1) == digits).float().mean()
        print(f"accuracy={accuracy:.4f}", flush=True)
        save(model.module.state_dict(), output / "model.pt")
    dist.destroy_process_group()


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images of 8 x 8 pixels and their digits: the training set, and a held-out fifth."""
    images, digits = load_digits(return_X_y=True)
    images, digits = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(digits)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(7))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return (images[train], digits[train]), (images[test], digits[test])


def save(state: dict, path: Path) -> None:
    """Write the file atomically."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/mnt/outputs/model"))
