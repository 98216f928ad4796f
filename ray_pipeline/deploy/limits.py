"""How often a key may be used: token buckets, and the headers that tell a client where it stands.

A bucket of `burst` tokens fills at `rate` a second; a request takes one. So a client may come in
bursts, and over time no more often than the rate. The headers are those of the IETF's
draft-ietf-httpapi-ratelimit-headers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ray_pipeline.errors import RequestError

Headers = tuple[tuple[bytes, bytes], ...]


class Bucket:
    """The tokens of one key in one replica.

    Args:
        rate: tokens a second, for the endpoint as a whole.
        burst: tokens that a full bucket holds.
        clock: seconds that never go back.
    """

    __slots__ = ("_at", "_clock", "_left", "burst", "rate")

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._left, self._at = float(burst), clock()

    def taken(self, replicas: int = 1) -> Headers:
        """Take a token, and return the headers that say how many are left.

        Each of `replicas` lets its share of the rate through, for none knows what the others do.

        Raises:
            RequestError: 429, with the seconds until the next token in Retry-After.
        """
        rate, burst = self.rate / replicas, max(1.0, self.burst / replicas)
        now = self._clock()
        self._left = min(burst, self._left + (now - self._at) * rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return self._headers(rate, burst)
        wait = max(1, math.ceil((1 - self._left) / rate))
        raise RequestError(
            "this key was used more often than it may be",
            status=429,
            code="rate_limited",
            expected=f"at most {self.rate:g} requests a second; wait {wait} s",
            headers=((b"retry-after", b"%d" % wait), *self._headers(rate, burst)),
        )

    def _headers(self, rate: float, burst: float) -> Headers:
        """What is left, the seconds until the bucket is full, and what it holds in how long."""
        full = math.ceil((burst - self._left) / rate)
        window = max(1, math.ceil(burst / rate))
        return (
            (b"ratelimit-policy", b'"key";q=%d;w=%d' % (burst, window)),
            (b"ratelimit", b'"key";r=%d;t=%d' % (self._left, full)),
        )
