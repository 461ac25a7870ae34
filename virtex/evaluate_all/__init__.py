"""Many evaluations in one command: checkpoints x tasks x seeds."""
