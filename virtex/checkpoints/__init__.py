"""Checkpoints of any known format, opened safely and proven complete."""
