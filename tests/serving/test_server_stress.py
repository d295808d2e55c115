"""The embedded server beside changing versions and malformed requests; `mim bench chaos` and `malformed` in small."""

from __future__ import annotations

from benchmarks import chaos, malformed


def test_no_request_fails_or_is_mistaken_while_versions_change() -> None:
    found = chaos.run(requests=1_500, rate=75, changes=6)
    assert found["errors"] == {}
    assert set(found["changes"]) == set(chaos.CHANGES)
    assert found["versions_that_answered"] >= 3


def test_malformed_requests_get_their_codes_and_harm_nobody() -> None:
    found = malformed.run(requests=400, seed=1)
    assert found["wrong"] == []
    assert found["slow_connections_that_never_greeted_closed"] == [malformed.SLOW, malformed.SLOW]
    assert found["good_requests"]["errors"] == {}
    assert found["good_requests"]["sent"] > 50
    assert len(found["kinds"]) > 35
