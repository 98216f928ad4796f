"""Which version answers a request while a new one is tried, and what callers see of its faults."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from ray_pipeline.deploy.asgi import Response
from ray_pipeline.deploy.split import Answered, Split
from ray_pipeline.errors import RequestError

HEADERS = [(b"content-type", b"application/json"), (b"x-api-key", b"secret")]


def told(share=1.0, copies=False, within_s=0.2):
    return {
        "against": "d",
        "application": "model.next",
        "share": share,
        "copies": copies,
        "within_s": within_s,
    }


def splitting(trial, new, old=None):
    """A split between `old`, which says no, and what `new` does with a body."""
    heard = []

    async def ours(body, headers):
        if old is not None:
            raise old
        return Response(200, b"old"), [{"label": "no"}]

    async def theirs(body, headers):
        heard.append(headers)
        return await new(body)

    remote = SimpleNamespace(answered=SimpleNamespace(remote=theirs))
    split = Split(ours, lambda said: said, lambda name: remote)
    asyncio.run(split.follow(trial))
    return split, heard


async def says_yes(body):
    return Answered(Response(200, b"new"), ["yes"], 0.001)


async def hangs(body):
    await asyncio.sleep(60)


async def fails(body):
    raise ValueError("no such thing")


async def refuses(body):
    raise RequestError("no", status=422, code="invalid")


def answers(split, count=1):
    async def asked():
        answered = [await split.answer(b"{}", HEADERS) for _ in range(count)]
        await asyncio.sleep(0.3 if split.is_on else 0)  # copies end
        return [answer.body for answer in answered]

    return asyncio.run(asked())


def test_each_version_answers_its_share_and_no_key_is_passed_on():
    split, heard = splitting(told(share=0.3), says_yes)
    found = answers(split, 500)
    taken = split.taken()
    assert 100 < found.count(b"new") < 200
    assert taken["new"]["outcomes"] == {"yes": found.count(b"new")}
    assert taken["old"]["outcomes"] == {"no": found.count(b"old")}
    assert split.taken() is None, "it was taken"
    assert {header for headers in heard for header in headers} == {HEADERS[0]}


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (hangs, "no answer within 0.2 s"),
        (fails, "ValueError"),
        (refuses, "422 invalid"),
    ],
)
def test_what_the_new_version_fails_the_old_one_answers(new, why):
    split, _ = splitting(told(), new)
    assert answers(split, 2) == [b"old", b"old"]
    assert split.taken()["new"] == {
        "answers": 2, "failures": {why: 2}, "latencies": {}, "outcomes": {}, "differing": 0
    }  # fmt: skip


def test_what_both_refuse_is_nobodys_failure():
    wrong = RequestError("wrong", status=422, code="invalid")
    split, _ = splitting(told(), refuses, old=wrong)
    with pytest.raises(RequestError):
        answers(split)
    assert split.taken() is None


def test_copies_are_compared_and_not_returned():
    split, heard = splitting(told(copies=True), says_yes)
    assert answers(split, 20) == [b"old"] * 20
    taken = split.taken()
    assert len(heard) == 20
    assert (taken["new"]["answers"], taken["new"]["differing"]) == (20, 20)


def test_a_new_version_that_hangs_gets_no_more_copies_than_it_can_hold():
    split, heard = splitting(told(copies=True, within_s=30), hangs)
    assert answers(split, 200) == [b"old"] * 200
    assert len(heard) == 32


def test_without_a_trial_the_old_version_answers_and_nothing_is_counted():
    split, heard = splitting(told(), says_yes)
    asyncio.run(split.follow(None))
    assert answers(split) == [b"old"]
    assert split.taken() is None
    assert heard == []
