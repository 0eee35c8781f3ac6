"""Pretrained networks from elsewhere: fetched once, checked, and unpacked into the user's cache."""

from headstart.models.downloads.fetch import fetch_saved_model

__all__ = ["fetch_saved_model"]
