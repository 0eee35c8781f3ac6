"""Bundles behind HTTP: two standard protocols, a page, and a queue that does not grow."""
