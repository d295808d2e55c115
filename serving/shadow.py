"""Two versions of a model on the same logged requests: what they score, how they order, how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import numpy as np

from serving import messages
from serving.channel import ServerError
from serving.tensors import to_array

SCORES = ("final_score", "ctr")  # what candidates are ordered by: the first of them that the model has
BINS = 10
FLOOR = 1e-4  # of a bin's share, so that an empty one does not make the index infinite


@dataclass(frozen=True)
class Limits:
    """How far a new version may be from the old one.

    Attributes:
        min_requests: Fewer say nothing.
        max_psi: Population stability index of the scores over the old version's deciles; above 0.25 a distribution is
            commonly called changed.
        max_mean_shift: |mean new / mean old − 1| of the scores.
        min_top_overlap: Mean share of the old version's best k items among the new one's best k.
        max_p99_ratio: Time of the slowest hundredth, new over old.
        max_error_share: Of requests that the old version answered and the new one did not.
    """

    min_requests: int = 100
    max_psi: float = 0.25
    max_mean_shift: float = 0.2
    min_top_overlap: float = 0.3
    max_p99_ratio: float = 2.0
    max_error_share: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """What a replay measured; `p50` and `p99` in milliseconds, old and new."""

    requests: int
    errors: int
    first_error: str
    mean: tuple[float, float]
    psi: float
    top_overlap: float | None
    p50: tuple[float, float]
    p99: tuple[float, float]

    def beyond(self, limits: Limits) -> list[str]:
        """Each limit that is passed, in words; nothing where all are kept."""
        if self.requests < limits.min_requests:
            return [f"{self.requests} requests were compared; at least {limits.min_requests} are needed"]
        found = []
        share = self.errors / self.requests
        if share > limits.max_error_share:
            found.append(
                f"{self.errors} of {self.requests} requests failed on the new version alone ({self.first_error}); at "
                f"most {limits.max_error_share:.2%} may"
            )
        if self.errors == self.requests:
            return found
        # `not <=`: a figure that is not finite passes no limit.
        if not self.psi <= limits.max_psi:
            found.append(f"the scores' stability index is {self.psi:.3f}; at most {limits.max_psi} is allowed")
        shift = abs(self.mean[1] / self.mean[0] - 1) if self.mean[0] else abs(self.mean[1])
        if not shift <= limits.max_mean_shift:
            found.append(
                f"the mean score went from {self.mean[0]:.4f} to {self.mean[1]:.4f}; a shift of at most "
                f"{limits.max_mean_shift:.0%} is allowed"
            )
        if self.top_overlap is not None and not self.top_overlap >= limits.min_top_overlap:
            found.append(f"{self.top_overlap:.0%} of the best items stayed; at least {limits.min_top_overlap:.0%} must")
        if not self.p99[1] <= limits.max_p99_ratio * self.p99[0]:
            found.append(
                f"p99 went from {self.p99[0]:.1f} to {self.p99[1]:.1f} ms; at most {limits.max_p99_ratio} times is "
                "allowed"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(
    channel: grpc.Channel,
    requests: Iterable[Any],
    model: str,
    old: int,
    new: int,
    top: int = 10,
    timeout: float = 5.0,
    max_requests: int = 2_000,
    on_progress: Callable[[int], None] | None = None,
    metadata: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """Sends each request to both versions, by turns first.

    Args:
        channel: To the server.
        requests: PredictRequests; those of other models are passed over.
        model: Its name.
        old, new: Versions.
        top: How many of the best items are compared, in requests with more candidates than that.
        timeout: Seconds a call may take.
        max_requests: No more are sent.
        on_progress: Called with the number of requests sent so far.
        metadata: Sent with every call.

    Raises:
        ServerError: the server cannot be reached.
    """
    call = messages.calls(channel)["Predict"]
    means: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    seconds: tuple[list[float], list[float]] = ([], [])
    overlaps: list[float] = []
    count, errors, first_error = 0, 0, ""
    for request in requests:
        if request.model_spec.name != model:
            continue
        if count >= max_requests:
            break
        answers: dict[int, np.ndarray] = {}
        times: dict[int, float] = {}
        failures: dict[int, str] = {}
        for version in (old, new) if count % 2 else (new, old):
            started = time.perf_counter()
            try:
                scores = _scores(call(_pinned(request, version), timeout=timeout, metadata=metadata))
                if not np.isfinite(scores).all():
                    failures[version] = f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
                    continue
                answers[version] = scores
                times[version] = time.perf_counter() - started
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    raise ServerError.of(error, "the server") from error
                failures[version] = f"{error.code().name}: {error.details()}"
        if old in failures:
            continue  # a request that was wrong from the start says nothing of the new version
        count += 1
        if on_progress is not None:
            on_progress(count)
        if new in failures:
            errors, first_error = errors + 1, first_error or failures[new]
            continue
        for place, version in enumerate((old, new)):
            means[place].append(answers[version])
            seconds[place].append(times[version])
        if len(answers[old]) > top:
            best = [set(np.argsort(-answers[version], kind="stable")[:top].tolist()) for version in (old, new)]
            overlaps.append(len(best[0] & best[1]) / top)
    both = [np.concatenate(values) if values else np.zeros(0) for values in means]
    return Comparison(
        requests=count,
        errors=errors,
        first_error=first_error,
        mean=(_mean(both[0]), _mean(both[1])),
        psi=stability_index(*both),
        top_overlap=float(np.mean(overlaps)) if overlaps else None,
        p50=(_percentile(seconds[0], 50), _percentile(seconds[1], 50)),
        p99=(_percentile(seconds[0], 99), _percentile(seconds[1], 99)),
    )


def stability_index(old: np.ndarray, new: np.ndarray) -> float:
    """Σ (q − p) ln(q / p) over deciles of `old`: the population stability index of credit scoring."""
    if not len(old) or not len(new):
        return 0.0
    edges = np.unique(np.quantile(old, np.linspace(0, 1, BINS + 1)[1:-1]))
    shares = []
    for values in (old, new):
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        shares.append(np.maximum(counts / len(values), FLOOR))
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _pinned(request: Any, version: int) -> Any:
    pinned = messages.PredictRequest()
    pinned.CopyFrom(request)
    pinned.model_spec.ClearField("version_label")
    pinned.model_spec.version.value = version
    return pinned


def _scores(response: Any) -> np.ndarray:
    """The answer's scores, or, of a model that ranks nothing, all its numbers."""
    for name in SCORES:
        if name in response.outputs:
            return to_array(response.outputs[name]).ravel().astype(np.float64)
    arrays = [to_array(response.outputs[name]) for name in sorted(response.outputs)]
    numbers = [array.ravel().astype(np.float64) for array in arrays if array.dtype.kind in "fiu"]
    return np.concatenate(numbers) if numbers else np.zeros(0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _percentile(values: list[float], which: float) -> float:
    return float(np.percentile(values, which)) * 1e3 if values else 0.0
