"""What every training here shares: processes, random numbers, output folder, checkpoints."""
