"""In a replica of the version that is live: which requests a new version answers while it is tried.

The new version runs beside as an application of its own. What it fails to answer, the old one
answers, so that callers see nothing of a version that is no good.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from ray_pipeline.deploy import tally
from ray_pipeline.deploy.asgi import Header, Response
from ray_pipeline.deploy.tally import Outcome
from ray_pipeline.errors import RequestError

_COPIES = 32
"""Most copies in flight; a new version that cannot keep up gets no more."""
_SECRET = (b"authorization", b"x-api-key", b"cookie")


class Trial(TypedDict):
    """What replicas are told of a new version that is tried."""

    against: str
    """The digest of the release that it is to replace, whose replicas split their requests."""
    application: str
    share: float
    """Of requests, between 0 and 1."""
    copies: bool
    """It gets copies, and its answers are not returned."""
    within_s: float


class Answered(NamedTuple):
    """A version's answer to a request, and what it says of each row."""

    response: Response
    said: list[str | float]
    seconds: float
    """In the version itself, without the way there."""


Predicting = Callable[
    [bytes, list[Header]], Awaitable[tuple[Response, Sequence[Mapping[str, Any]]]]
]


class Split:
    """Answers requests by one version or the other, and counts both.

    Args:
        predicted: this replica's own answer to a request, and its predictions.
        outcome: from what a prediction says to what is counted.
        handle: finds the application of that name; it may block.
    """

    def __init__(
        self,
        predicted: Predicting,
        outcome: Callable[[str | float], Outcome],
        handle: Callable[[str], Any],
    ) -> None:
        self._predicted, self._outcome, self._handle = predicted, outcome, handle
        self._trial: Trial | None = None
        self._other: Any = None
        self._tallies = {"old": tally.nothing(), "new": tally.nothing()}
        self._copying: set[asyncio.Task[None]] = set()

    @property
    def is_on(self) -> bool:
        """Whether a new version is tried, as far as this replica knows."""
        return self._trial is not None

    async def follow(self, trial: Trial | None) -> None:
        """Split requests as `trial` says, or no longer."""
        if trial and (not self._trial or self._trial["application"] != trial["application"]):
            self._other = await asyncio.to_thread(self._handle, trial["application"])
        self._trial = trial

    def taken(self) -> Mapping[str, tally.Tally] | None:
        """What was counted since the last call, for `old` and `new`; None where nothing was."""
        if not any(one["answers"] for one in self._tallies.values()):
            return None
        taken, self._tallies = self._tallies, {"old": tally.nothing(), "new": tally.nothing()}
        return taken

    async def answer(self, body: bytes, headers: list[Header]) -> Response:
        """The answer to a request, by the version whose turn it is.

        Raises:
            RequestError: the request is wrong.
        """
        trial = self._trial
        if trial is None:
            return (await self._predicted(body, headers))[0]
        chosen = random.random() < trial["share"]  # noqa: S311 - nothing secret
        if chosen and not trial["copies"]:
            return await self._new_or_old(trial, body, headers)
        ours = await self._old(body, headers)
        if chosen and len(self._copying) < _COPIES:
            copying = asyncio.create_task(self._copied(trial, body, headers, ours))
            self._copying.add(copying)
            copying.add_done_callback(self._copying.discard)
        return ours.response

    async def own(self, body: bytes, headers: list[Header]) -> Answered:
        """This replica's own answer, with what a trial needs of it. Raises RequestError."""
        started = time.perf_counter()
        response, predictions = await self._predicted(body, headers)
        seconds = time.perf_counter() - started
        return Answered(response, [tally.said(one) for one in predictions], seconds)

    async def _old(self, body: bytes, headers: list[Header]) -> Answered:
        try:
            answer = await self.own(body, headers)
        except RequestError:
            raise
        except Exception as error:
            tally.failed(self._tallies["old"], type(error).__name__)
            raise
        tally.answered(self._tallies["old"], answer.seconds, self._outcomes(answer))
        return answer

    async def _new_or_old(self, trial: Trial, body: bytes, headers: list[Header]) -> Response:
        theirs, why = await self._new(trial, body, headers)
        if theirs is None:
            # Where the old one refuses the request as well, this raises, and nobody has failed.
            answer = await self._old(body, headers)
            tally.failed(self._tallies["new"], why)
            return answer.response
        tally.answered(self._tallies["new"], theirs.seconds, self._outcomes(theirs))
        return theirs.response

    async def _copied(
        self, trial: Trial, body: bytes, headers: list[Header], ours: Answered
    ) -> None:
        theirs, why = await self._new(trial, body, headers)
        if theirs is None:
            tally.failed(self._tallies["new"], why)
            return
        new, old = self._outcomes(theirs), self._outcomes(ours)
        differing = sum(tally.differ(*pair) for pair in zip(old, new, strict=True))
        tally.answered(self._tallies["new"], theirs.seconds, new, differing)

    def _outcomes(self, answer: Answered) -> list[Outcome]:
        return [self._outcome(said) for said in answer.said]

    async def _new(
        self, trial: Trial, body: bytes, headers: list[Header]
    ) -> tuple[Answered | None, str]:
        """The new version's answer, or None and why there is none."""
        asked = time.perf_counter()
        try:
            async with asyncio.timeout(trial["within_s"]):
                return await self._other.answered.remote(body, _without_keys(headers)), ""
        except TimeoutError:
            if time.perf_counter() - asked >= trial["within_s"]:
                return None, f"no answer within {trial['within_s']:g} s"
            return None, "TimeoutError"
        # Whatever befalls the other version's process is counted, and this one answers.
        except Exception as error:  # noqa: BLE001
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, RequestError):
                return None, f"{cause.status} {cause.code}"
            return None, type(cause).__name__


def _without_keys(headers: list[Header]) -> list[Header]:
    return [header for header in headers if header[0] not in _SECRET]
