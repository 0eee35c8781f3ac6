"""Activations of the frozen part: computed once per photo, kept on disk."""
