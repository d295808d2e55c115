"""What a Center counts, for Prometheus."""

from __future__ import annotations

import functools

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)


class CenterMetrics:
    """Counters and gauges of one process; every Center opened in it shares them.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.hits = Counter("mim_center_hits", "Items asked for that are known", registry=registry)
        self.misses = Counter("mim_center_misses", "Items asked for that are not known", registry=registry)
        self.dropped_misses = Counter("mim_center_dropped_misses", "Misses that were not queued", registry=registry)
        self.missing_versions = Counter(
            "mim_center_missing_versions", "Reads of an encoder version that the Center lacks", registry=registry
        )
        self.newest_age = Gauge(
            "mim_center_newest_vector_age_seconds", "Age of the active version's newest vector", registry=registry
        )
        self.vectors = Gauge("mim_center_vectors", "Vectors held", ["version"], registry=registry)
        self.queued = Gauge("mim_center_queue_length", "Items waiting to be encoded", registry=registry)
        self.parked = Gauge("mim_center_parked_items", "Items that could not be encoded", registry=registry)
        self.encoded = Counter("mim_center_encoded", "Items encoded from events", registry=registry)
        self.skipped = Counter("mim_center_skipped", "Events whose content has its vector already", registry=registry)
        self.event_seconds = Histogram(
            "mim_center_event_seconds",
            "Seconds from an item's event to its usable vector",
            buckets=SECONDS,
            registry=registry,
        )

    def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Serves metrics for Prometheus on a port, in a thread of its own."""
        start_http_server(port, addr=host, registry=self.registry)


@functools.cache
def process_metrics() -> CenterMetrics:
    """The metrics of this process."""
    return CenterMetrics(REGISTRY)
