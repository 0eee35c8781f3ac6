"""Contract checks over the tables, for our own rows and for those of others.

A check raises `AssertionError` with a sentence about the first promise that is broken.
"""

from headstart.testing.backbones import (
    check_backbone,
    measure_agreement,
    measure_bundle,
    measure_sensitivity,
    settle,
)
from headstart.testing.engines import check_engine
from headstart.testing.runtimes import check_runtime

__all__ = [
    "check_backbone",
    "check_engine",
    "check_runtime",
    "measure_agreement",
    "measure_bundle",
    "measure_sensitivity",
    "settle",
]
