"""Training infrastructure: processes, random states, logs, checkpoints, the training loop."""
