"""Keyed hashes of personal values, and the secrets behind them, which can be rotated.

A hash is `<key id>:<32 hex digits>`: HMAC-SHA256 (RFC 2104), cut to 128 bits as NIST SP 800-107
allows. The id says which key made it, so that old hashes still resolve after a rotation. It is
the same in every column and job of one key: rows of a person can be joined by it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_pipeline.errors import JobError
from ray_pipeline.files import state_folder, write_private

VARIABLE = "RAY_PIPELINE_PRIVACY_KEYS"
_SHORTEST = 16
"""Characters of a secret: a shorter one could be guessed, and with it every hash."""
_HASH = re.compile(r"[0-9a-f]{6}:[0-9a-f]{32}")


@dataclass(frozen=True)
class Key:
    """A secret that hashes personal values. Its id is a digest that does not tell it."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        return hashlib.sha256(b"key id\0" + self.secret).hexdigest()[:6]

    def hashed(self, value: str) -> str:
        """The hash of one value."""
        return f"{self.id}:{hmac.digest(self.secret, value.encode(), 'sha256')[:16].hex()}"

    def all_hashed(self, values: Iterable[str]) -> list[str]:
        """The hash of each value; one that is a hash of this key already stays as it is."""
        prefix, secret = f"{self.id}:", self.secret
        return [
            value
            if value.startswith(prefix) and is_hash(value)
            else prefix + hmac.digest(secret, value.encode(), "sha256")[:16].hex()
            for value in values
        ]


def is_hash(text: str) -> bool:
    """Whether a text has the form of a hash of some key."""
    return _HASH.fullmatch(text) is not None


def keys() -> tuple[Key, ...]:
    """This user's keys, the current one first: from the environment, else from a private file.

    `RAY_PIPELINE_PRIVACY_KEYS` holds secrets of at least 16 characters, separated by white space;
    so does the file `privacy_keys` beside the API key, which is made on first use.

    Raises:
        JobError: a secret is too short.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        if not _file().exists():
            return rotated()
        given = _file().read_text(encoding="utf-8")
    if any(len(secret) < _SHORTEST for secret in given.split()) or not given.split():
        raise JobError(
            "a secret for hashing personal data is too short",
            where=VARIABLE if VARIABLE in os.environ else str(_file()),
            expected=f"{_SHORTEST} characters or more",
        )
    return tuple(Key(secret.encode()) for secret in given.split())


def rotated() -> tuple[Key, ...]:
    """Begin a new key, kept before the old ones in the private file.

    Raises:
        JobError: the keys come from the environment, which is not ours to change.
    """
    if VARIABLE in os.environ:
        raise JobError(
            "the keys come from the environment",
            where=VARIABLE,
            hint="put a new secret before the ones that are there, and keep those",
        )
    old = _file().read_text(encoding="utf-8") if _file().exists() else ""
    write_private(_file(), f"{secrets.token_urlsafe(32)}\n{old}")
    return keys()


def key_called(id_: str, known: Sequence[Key]) -> Key:
    """The key with an id. Raises JobError where it is not among `known`."""
    for key in known:
        if key.id == id_:
            return key
    raise JobError(
        f"the key `{id_}`, which hashed personal data, is not here",
        where=f"{VARIABLE} or {_file()}",
        expected=f"one of {', '.join(key.id for key in known)} and `{id_}`",
        hint="bring the secret from the machine that ran the job",
    )


def _file() -> Path:
    return state_folder() / "privacy_keys"
