"""Classifiers on pretrained backbones, and their metrics."""
