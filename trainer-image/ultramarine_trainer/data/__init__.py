"""Source, inputs, outputs and checkpoints of an attempt."""
