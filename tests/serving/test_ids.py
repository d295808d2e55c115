"""Ids of requests follow the rule of the tables."""

from __future__ import annotations

import numpy as np
import pytest

from serving.client_core import _feature_text
from serving.representation_center.ids import IdError, normalize_id


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("A-1", "A-1"),
        (" A-1 ", "A-1"),
        (b"A-1", "A-1"),
        (12, "12"),
        (10**30, str(10**30)),
        (12.0, "12"),
        (np.int64(12), "12"),
        (np.float32(12), "12"),
        ("12.0", "12"),
        ("6.806634100033e+12", "6806634100033"),
        ("1e5", "1e5"),
        ("007", "007"),
    ],
)
def test_an_id_is_text(value: object, expected: str) -> None:
    assert normalize_id(value) == expected


@pytest.mark.parametrize("value", [1.5, "1.25e+1", None, True, [], float("nan")])
def test_what_is_no_id_says_so(value: object) -> None:
    with pytest.raises(IdError, match="an id is"):
        normalize_id(value)


def test_features_are_written_as_the_tables_have_them() -> None:
    given = ["app", b"app", 5, 5.0, 2.5, True, np.bool_(False), np.float64(7)]
    assert [_feature_text(one) for one in given] == ["app", b"app", "5", "5", "2.5", "true", "false", "7"]
