"""Backbone weights: reading checkpoints safely and converting them."""
