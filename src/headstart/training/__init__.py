"""Fitting what is trained: from cached activations."""
