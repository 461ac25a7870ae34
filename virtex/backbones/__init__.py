"""Backbone families: one module each, registered in ``registry``."""
