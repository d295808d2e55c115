"""The embedded server beside changing versions and malformed requests; `mim bench chaos`, `malformed` and
`terminate` in small."""

from __future__ import annotations

from benchmarks import chaos, malformed, terminate


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


def test_a_signal_loses_no_request() -> None:
    found = terminate.run(moments=2, seed=1, kinds=("batch", "poll"))
    assert (found["lost"], found["wrong_exits"]) == ([], [])
    assert found["seconds_at_most"] < terminate.SECONDS
    assert found["requests"]["gRPC OK"] > terminate.CLIENTS
