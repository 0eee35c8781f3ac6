"""How much memory this process has taken."""

from __future__ import annotations


def measure_memory() -> float:
    """Largest resident memory of this process so far in MB; 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
