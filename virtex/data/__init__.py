"""Datasets: what a task needs on disk, and the built-in toy world."""
