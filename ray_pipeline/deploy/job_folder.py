"""Jobs of many rows as files, which every replica reaches and which outlive them all.

`<folder>/<endpoint>/<id>/` holds `job.json`, the request's body as `rows` until it is predicted,
and at the end `answer.json`, whole or not at all. Nobody but their owner can read them.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from upath import UPath

from ray_pipeline.files import LOCAL, clear, write_whole

_JOB, _ROWS, _ANSWER = "job.json", "rows", "answer.json"


@dataclass(frozen=True)
class Job:
    """What is known of a job before it is predicted."""

    id: str
    owner: str
    """Whose it is (Gate.caller); empty where everybody may call."""
    bundle: str
    settings: str
    """The job file's `serve` section, as JSON."""
    content_type: str
    created: float
    """Seconds since 1970."""
    expires: float


class Folder:
    """The jobs of one endpoint."""

    def __init__(self, path: str | UPath) -> None:
        self.path = UPath(path)

    def add(self, job: Job, body: bytes) -> None:
        """Keep a new job; it is there when its `job.json` is."""
        place = self.path / job.id
        if place.protocol in LOCAL:
            Path(str(place)).mkdir(mode=0o700, parents=True)
        write_whole(place / _ROWS, body)
        write_whole(place / _JOB, json.dumps(asdict(job)).encode())

    def job(self, number: str) -> Job | None:
        """A job that is here and has not expired; None if there is none."""
        try:
            found = Job(**json.loads((self.path / number / _JOB).read_bytes()))
        except FileNotFoundError:
            return None
        return found if time.time() < found.expires else None

    def jobs(self) -> Iterator[Job]:
        """Those that have not expired."""
        for place in self._places():
            job = self.job(place.name)
            if job is not None:
                yield job

    def count(self) -> int:
        """How many there are, with those that are being sent."""
        return sum(1 for _ in self._places())

    def rows(self, number: str) -> bytes:
        """The body that it was sent with. Raises FileNotFoundError once it is answered."""
        return (self.path / number / _ROWS).read_bytes()

    def answer(self, number: str) -> UPath | None:
        """The file with its answer; None while there is none."""
        path = self.path / number / _ANSWER
        return path if path.exists() else None

    def finish(self, number: str, answer: bytes) -> None:
        """Keep its answer, and the rows no longer; nothing, where it was removed meanwhile."""
        if (self.path / number / _JOB).exists():
            write_whole(self.path / number / _ANSWER, answer)
            (self.path / number / _ROWS).unlink(missing_ok=True)

    def remove(self, number: str) -> None:
        """All that is kept of a job."""
        try:
            clear(self.path / number)
        except FileNotFoundError:
            return  # another replica was first

    def sweep(self, unsent_s: float) -> None:
        """Remove what has expired, and what was begun to be sent so long ago and never was."""
        for place in self._places():
            if (place / _JOB).exists():
                over = self.job(place.name) is None
            else:
                over = time.time() - place.stat().st_mtime > unsent_s
            if over:
                self.remove(place.name)

    def _places(self) -> Iterator[UPath]:
        if self.path.exists():
            yield from self.path.iterdir()


def new_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)
