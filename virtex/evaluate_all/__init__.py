"""Many evaluations as one command: checkpoints x tasks x seeds, planned, run, gathered."""
