"""What every training shares: processes, random states, logs, checkpoints, the loop."""
