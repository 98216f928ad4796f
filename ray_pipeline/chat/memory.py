"""Conversations that a chatbot remembers, where the job has `chat.memory`: what was asked, so that
a client may send its new question alone.

    <storage>/<job>/log/<endpoint>/conversations/<conversation>/<nanoseconds>.json

A conversation's ID is random, and its folder is named by a digest of it and of who began it: with
another key it is not found, and who reads the storage learns no ID. All replicas see these files.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from upath import UPath

from ray_pipeline.chat.protocol import LAST_QUESTIONS
from ray_pipeline.data.privacy import recognise
from ray_pipeline.deploy import log_files
from ray_pipeline.deploy.asgi import Response, json_response
from ray_pipeline.errors import JobError, RequestError
from ray_pipeline.files import LOCAL, write_whole
from ray_pipeline.job import Job

NEW = "new"
"""What a request says in place of an ID, to begin a conversation."""
_FOLDER, _PREFIX = "conversations", "conv_"
_DAY_S, _SWEPT_EACH_S = 86_400, 3600.0
_LOGGER = logging.getLogger("ray.serve")


class Memory:
    """The conversations of one chatbot. Its methods read and write files: not for the event loop.

    Args:
        log: of the endpoint (`log_files.folder`).
        days: after which a question is forgotten.
        mask: personal data that becomes its name before anything is stored.
    """

    def __init__(self, log: UPath, days: float, mask: Sequence[str] = ()) -> None:
        self._root, self._days, self._mask = log / _FOLDER, days, mask
        recognise.masked([" "], mask)  # what it needs is loaded before somebody waits for it

    def taken_up(self, caller: str, given: str, question: str) -> tuple[str, list[str]]:
        """The conversation that a caller goes on with or begins by this question, and what was
        asked in it before, oldest first; no more is kept of it than is read.

        Raises:
            RequestError: 404, the caller has no such conversation.
        """
        # Not of the client's choice, who could choose one that others guess.
        identity = _PREFIX + secrets.token_urlsafe(24) if given == NEW else given
        place = self._place(caller, identity)
        turns = [] if given == NEW else self._turns(place)
        if given != NEW and not turns:
            raise _unknown()
        before = [json.loads(turn.read_bytes())["question"] for turn in turns]
        (masked,) = recognise.masked([question], self._mask)
        if place.protocol in LOCAL:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(
            place / f"{time.time_ns():020d}.json",
            json.dumps({"question": masked}).encode(),
        )
        for turn in turns[: 1 - LAST_QUESTIONS]:
            turn.unlink(missing_ok=True)
        return identity, before

    def erased(self, caller: str, identity: str) -> Response:
        """Erase a conversation, and say so. Raises RequestError: 404, the caller has no such."""
        turns = self._turns(self._place(caller, identity))
        if not turns:
            raise _unknown()
        for turn in turns:
            turn.unlink(missing_ok=True)
        return json_response({"id": identity, "deleted": True})

    def swept(self) -> int:
        """Remove the questions that are too old, of all conversations; how many they were."""
        if not self._exists(self._root):
            return 0
        old = [turn for turn in self._root.glob("*/*.json") if not self._is_kept(turn)]
        for turn in old:
            turn.unlink(missing_ok=True)
        if self._root.protocol in LOCAL:
            _without_empty(Path(str(self._root)))
        return len(old)

    async def sweeping(self) -> None:
        """Sweep now and each hour, for questions get too old whether somebody asks or not."""
        while True:
            try:
                await asyncio.to_thread(self.swept)
            except OSError as error:
                _LOGGER.warning("conversations are not swept: %s", error)
            await asyncio.sleep(_SWEPT_EACH_S)

    def _place(self, caller: str, identity: str) -> UPath:
        return self._root / hashlib.sha256(f"{caller} {identity}".encode()).hexdigest()

    def _turns(self, place: UPath) -> list[UPath]:
        """The files of a conversation, oldest first, without those that are too old."""
        found = place.glob("*.json") if self._exists(place) else ()
        return sorted((turn for turn in found if self._is_kept(turn)), key=lambda turn: turn.name)

    def _is_kept(self, turn: UPath) -> bool:
        return int(turn.stem) > time.time_ns() - self._days * _DAY_S * 10**9

    def _exists(self, folder: UPath) -> bool:
        folder.fs.invalidate_cache()  # an object store's client keeps what it once listed
        return folder.exists()


def expired(job: Job) -> int:
    """Remove the questions that a job's endpoint has kept for too long; how many they were.

    Raises:
        JobError: it keeps none.
    """
    if job.chat is None or job.chat.memory is None:
        raise JobError("the chatbot remembers no conversations", where="chat.memory")
    log = log_files.folder(UPath(job.storage) / job.name / "bundles" / "any", job.name)
    return Memory(log, job.chat.memory.days).swept()


def _without_empty(root: Path) -> None:
    """Remove the empty folders, but for those that a question may just be written to."""
    for folder in root.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another replica was first
            if folder.stat().st_mtime < time.time() - _DAY_S and not any(folder.iterdir()):
                folder.rmdir()


def _unknown() -> RequestError:
    return RequestError(
        "there is no such conversation",
        status=404,
        code="no_conversation",
        where="conversation",
        expected=f"one that this key began and that has not expired, or `{NEW}`",
    )
