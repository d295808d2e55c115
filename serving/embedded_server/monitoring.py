"""Counts and times of requests under TensorFlow Serving's metric names, in Prometheus' text form."""

from __future__ import annotations

import bisect
import threading

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
_LIMITS = [10 * 1.8**power for power in range(33)]  # microseconds, up to about 20 minutes


class Counter:
    """A count for each combination of labels."""

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        self.name, self.labels = name, labels
        self._values: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, *labels: str, count: int = 1) -> None:
        """So many more."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + count

    def lines(self) -> list[str]:
        """Prometheus' text."""
        with self._lock:
            values = sorted(self._values.items())
        name = _metric(self.name)
        return [
            f"# TYPE {name} counter",
            *(f"{name}{{{_format_labels(self.labels, own)}}} {value}" for own, value in values),
        ]


class Sampler:
    """A histogram for each combination of labels."""

    def __init__(self, name: str, labels: tuple[str, ...], limits: list[float] | None = None) -> None:
        self.name, self.labels, self._limits = name, labels, limits or _LIMITS
        self._values: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()

    def add(self, value: float, *labels: str) -> None:
        """One more value."""
        place = bisect.bisect_left(self._limits, value)
        with self._lock:
            if labels not in self._values:
                self._values[labels] = ([0] * (len(self._limits) + 1), [0.0])
            counts, total = self._values[labels]
            counts[place] += 1
            total[0] += value

    def lines(self) -> list[str]:
        """Prometheus' text."""
        with self._lock:
            values = [(own, list(counts), total[0]) for own, (counts, total) in sorted(self._values.items())]
        name = _metric(self.name)
        lines = [f"# TYPE {name} histogram"]
        for own, counts, total in values:
            text, reached = _format_labels(self.labels, own), 0
            for limit, count in zip([*(f"{limit:g}" for limit in self._limits), "+Inf"], counts, strict=True):
                reached += count
                lines.append(f'{name}_bucket{{{text},le="{limit}"}} {reached}')
            lines += [f"{name}_sum{{{text}}} {total:g}", f"{name}_count{{{text}}} {reached}"]
        return lines


class Monitoring:
    """The metrics of one server.

    Source: tensorflow_serving/servables/tensorflow/{util,saved_model_warmup_util}.cc, batching/batching_session.cc,
    core/request_logger.cc, util/prometheus_exporter.cc.
    """

    def __init__(self) -> None:
        prefix, own = "/tensorflow/serving/", ("model_path", "status")
        self.request_count = Counter(f"{prefix}request_count", ("model_name", "status"))
        self.request_log_count = Counter(f"{prefix}request_log_count", ("model_name", "status_code"))
        self.request_latency = Sampler(f"{prefix}request_latency", ("model_name", "API", "entrypoint"))
        self.runtime_latency = Sampler(f"{prefix}runtime_latency", ("model_name", "API", "runtime"))
        self.example_counts = Sampler(
            f"{prefix}request_example_counts", ("model",), [float(2**power) for power in range(15)]
        )
        self.example_count_total = Counter(f"{prefix}request_example_count_total", ("model",))
        self.warmup_latency = Sampler(f"{prefix}model_warmup_latency", own)
        self.warmup_records_read = Counter(f"{prefix}model_warmup_records_read", own)
        self.queuing_latency = Sampler(
            f"{prefix}batching_session/queuing_latency",
            ("thread_pool_name",),
            [100 * 1.2**power for power in range(52)],
        )
        self.wrapped_run_count = Counter(f"{prefix}batching_session/wrapped_run_count", ())

    def page(self) -> str:
        """All of them, as Prometheus reads them."""
        return "\n".join(line for metric in vars(self).values() for line in metric.lines()) + "\n"


def _metric(name: str) -> str:
    return name.replace("/", ":")


def _format_labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in values)
    return ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True))
