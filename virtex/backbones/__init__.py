"""Backbone families: architectures, and what the toolkit needs to know of each."""
