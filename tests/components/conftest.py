"""What the components' tests share: one Flink for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.flink_server import flink_jar, running_flink


@pytest.fixture(scope="session")
def flink() -> Iterator[tuple[str, ...]]:
    """Flags of Beam for a Flink that runs here; left out where the environment has none."""
    try:
        flink_jar()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with running_flink() as (flags, _):
        yield flags
