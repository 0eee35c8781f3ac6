"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counters of one server; each has a registry of its own, so that several can run."""

    def __init__(self) -> None:
        self.registry, self.waiting = CollectorRegistry(), 0
        r = self.registry
        self.requests = Counter(
            "headstart_requests", "Requests answered.", ("route", "status"), registry=r
        )
        self.photos = Counter("headstart_photos", "Photos answered.", ("model",), registry=r)
        self.rejected = Counter("headstart_rejected", "Not computed.", ("reason",), registry=r)
        self.pending = Gauge("headstart_pending_photos", "Waiting or computed.", registry=r)
        self.batch = Histogram(
            "headstart_batch_photos", "Photos computed at once.", buckets=range(1, 9), registry=r
        )
        self.wait = Histogram(
            "headstart_wait_seconds", "From decoded to computed.", buckets=_SECONDS, registry=r
        )
        self.decode = Histogram(
            "headstart_decode_seconds", "Per photo.", buckets=_SECONDS, registry=r
        )
        self.compute = Histogram(
            "headstart_compute_seconds", "Per batch.", buckets=_SECONDS, registry=r
        )
        self.model = Gauge(
            "headstart_model", "1 for each model that is served.", ("model", "digest"), registry=r
        )

    def add_waiting(self, count: int) -> None:
        """Photos that came, or that were answered."""
        self.waiting += count
        self.pending.set(self.waiting)
