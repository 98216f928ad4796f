"""Token buckets, against a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.deploy.limits import Bucket
from ray_pipeline.errors import RequestError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def may(bucket, replicas=1):
    try:
        bucket.taken(replicas)
    except RequestError:
        return False
    return True


def test_a_burst_then_the_rate():
    clock = Clock()
    bucket = Bucket(2, 5, clock)
    assert [may(bucket) for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 0.5
    assert [may(bucket) for _ in range(2)] == [True, False]
    clock.now += 1000
    assert sum(may(bucket) for _ in range(20)) == 5


def test_a_refusal_says_when_to_come_back_and_that_is_right():
    clock = Clock()
    bucket = Bucket(0.1, 1, clock)
    assert dict(bucket.taken()) == {
        b"ratelimit-policy": b'"key";q=1;w=10',
        b"ratelimit": b'"key";r=0;t=10',
    }
    clock.now += 3
    with pytest.raises(RequestError) as caught:
        bucket.taken()
    assert (caught.value.status, caught.value.code) == (429, "rate_limited")
    wait = int(dict(caught.value.headers)[b"retry-after"])
    assert wait == 7
    clock.now += wait
    assert may(bucket)


def test_replicas_share_a_rate():
    clock = Clock()
    buckets = [Bucket(10, 10, clock) for _ in range(4)]
    for bucket in buckets:
        while may(bucket, 4):
            pass
    clock.now += 1
    assert sum(sum(may(bucket, 4) for _ in range(10)) for bucket in buckets) in range(8, 11)


@given(
    st.floats(0.1, 100),
    st.integers(1, 50),
    st.lists(st.floats(0, 5), min_size=1, max_size=80),
)
def test_never_more_than_the_burst_and_the_rate(rate, burst, pauses):
    clock = Clock()
    bucket, passed = Bucket(rate, burst, clock), 0
    for pause in pauses:
        clock.now += pause
        passed += may(bucket)
    assert passed <= burst + rate * sum(pauses) + 1e-6
