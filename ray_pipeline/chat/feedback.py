"""`POST /NAME/feedback`: what people say of answers, and what they would have been.

Whose key has the scope `feedback` puts answers right: the next index reads them as corrections.
That key is the owner's to give; who has it can write what others are answered.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import msgspec
import pyarrow as pa
from upath import UPath

from ray_pipeline.chat.corrections import LONGEST_ANSWER, LONGEST_QUESTION, Correction
from ray_pipeline.data.privacy import recognise
from ray_pipeline.deploy import log_files
from ray_pipeline.deploy.asgi import Response, json_response
from ray_pipeline.deploy.protocol import not_json
from ray_pipeline.errors import RequestError
from ray_pipeline.job.chat import PUBLIC

MOST = 20_000
"""Opinions that are read, the newest."""
MOST_BYTES, DAYS = 50_000_000, 365.0
_SCHEMA = pa.schema(
    {
        "question": pa.string(),
        "good": pa.bool_(),
        "answer": pa.string(),
        "group": pa.string(),
        "version": pa.string(),
        "by": pa.string(),
        "time": pa.float64(),
    }
)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    question: str
    good: bool
    answer: str = ""
    group: str = PUBLIC


class Feedback:
    """Keeps what is said of one chatbot's answers.

    Args:
        folder: where (`log_files.folder`).
        version: of the bundle that answered.
        mask: personal data that becomes its name before anything is stored.
    """

    def __init__(self, folder: UPath, version: str, mask: Sequence[str]) -> None:
        self._folder, self._version, self._mask = folder / log_files.FEEDBACK, version, mask
        self._decode = msgspec.json.Decoder(_Body).decode
        recognise.masked([" "], mask)  # what it needs is loaded before somebody waits for it

    def answer(self, body: bytes, by: str, groups: Collection[str]) -> Response:
        """202 for what is kept of somebody who may read `groups`. It writes a file: not for the
        event loop.

        Raises:
            RequestError: 400 not JSON; 422 no such feedback, and where.
        """
        try:
            given = self._decode(body)
        except msgspec.ValidationError as error:
            raise _wrong(str(error), "body") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from error
        if not 0 < len(given.question.strip()) <= LONGEST_QUESTION:
            raise _wrong(f"expected 1 to {LONGEST_QUESTION:,} characters", "question")
        if len(given.answer) > LONGEST_ANSWER:
            raise _wrong(f"expected at most {LONGEST_ANSWER:,} characters", "answer")
        if given.group not in groups:
            raise _wrong(f"expected one of {', '.join(sorted(groups))}", "group")
        question, answer = recognise.masked(
            [given.question.strip(), given.answer.strip()], self._mask
        )
        row = (question, given.good, answer, given.group, self._version, by, time.time())
        columns = {name: [value] for name, value in zip(_SCHEMA.names, row, strict=True)}
        log_files.added(self._folder, pa.table(columns, schema=_SCHEMA), MOST_BYTES, DAYS)
        return json_response({"accepted": 1}, 202)


def corrections(folder: UPath) -> list[Correction]:
    """The answers that were put right, oldest first. `folder` is the endpoint's log."""
    return [
        Correction(question=row["question"], answer=row["answer"], group=row["group"])
        for row in _told(folder)
        if row["answer"] and not row["good"]
    ]


def complaints(folder: UPath) -> list[str]:
    """Questions whose answers were called wrong and that nobody has put right since."""
    open_questions: dict[str, None] = {}
    for row in _told(folder):
        if row["good"] or row["answer"]:
            open_questions.pop(row["question"], None)
        else:
            open_questions[row["question"]] = None
    return list(open_questions)


def _told(folder: UPath) -> list[dict[str, str]]:
    table = log_files.newest(folder / log_files.FEEDBACK, MOST)
    return [] if table is None else table.sort_by("time").to_pylist()


def _wrong(what: str, where: str) -> RequestError:
    return RequestError(what, status=422, code="invalid_request", where=where)
