"""Trains a small network on handwritten digits, and writes its program into the folder of --output."""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", type=Path, default=Path("outputs/model"), help="folder of the model")
parser.add_argument("--epochs", type=int, default=20, help="passes over the data")
parser.add_argument("--learning-rate", type=float, default=0.003, help="step size of Adam")
arguments = parser.parse_args()

# For data of your own, add an input to ultramarine.yaml and read it here, such as by pandas.read_csv.
images, digits = load_digits(return_X_y=True)
parts = train_test_split(images, digits, test_size=0.2, random_state=7)
train, test = (torch.tensor(part, dtype=torch.float32) / 16 for part in parts[:2])
train_digits, test_digits = (torch.tensor(part) for part in parts[2:])

torch.manual_seed(7)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate)
rows = torch.utils.data.TensorDataset(train, train_digits)
for epoch in range(1, arguments.epochs + 1):
    for batch, labels in torch.utils.data.DataLoader(rows, batch_size=64, shuffle=True):
        loss = torch.nn.functional.cross_entropy(model(batch.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Printed NAME=VALUE words become progress and metrics of the job.
    print(f"step={epoch} total_steps={arguments.epochs} loss={loss.item():.4f}", flush=True)

model = model.cpu().eval()
print(f"accuracy={(model(test).argmax(1) == test_digits).float().mean():.4f}")

arguments.output.mkdir(parents=True, exist_ok=True)
batch_size = torch.export.Dim("batch")
program = torch.export.export(model, (test[:2],), dynamic_shapes=({0: batch_size},))
torch.export.save(program, arguments.output / "model.pt2")
