"""VirTex pretraining (arXiv 2006.06666): models, data, the task."""
