"""The keys of a user's endpoints: a private file with their hashes, and its copy on the cluster.

A key is 256 random bits. Guessing one is hopeless however fast the hash, so that SHA-256 is
right: the slow, salted hashes that weak passwords need would cost each request milliseconds and
protect nothing more. A stolen file or copy lets nobody in.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from ray_pipeline.errors import UsageError
from ray_pipeline.files import state_folder, write_private

Scope = Literal["predict", "metrics", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = ("predict", "metrics", "feedback", "admin")
OWN = "own"
"""The name of the key that `ray-pipeline key` prints."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Key(_Frozen):
    """What is kept of a key. Times are UTC, ISO 8601."""

    name: str
    hash: str
    """sha256 of the key."""
    last: str
    """Its last four characters, to tell keys apart."""
    scopes: tuple[Scope, ...] = ("predict",)
    """What it opens; `admin` opens everything."""
    endpoints: tuple[str, ...] = ()
    """Whose endpoints; empty for all."""
    rate: float | None = Field(None, gt=0)
    """Requests a second, for each endpoint; None for no bound."""
    burst: int | None = Field(None, ge=1)
    created: str
    expires: str | None = None


class Keyring(_Frozen):
    """A user's keys. `id` tells keyrings on one cluster apart."""

    id: str
    keys: tuple[Key, ...] = ()


def hashed(text: str | bytes) -> str:
    """sha256 of a key, in hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def new_text() -> str:
    """A new key: `rp_` and 256 random bits."""
    return f"rp_{secrets.token_urlsafe(32)}"


def described(name: str, text: str, **more: object) -> Key:
    """What is kept of the key `text`; `more` are fields of Key."""
    fields = {"name": name, "hash": hashed(text), "last": text[-4:], "created": _now().isoformat()}
    return Key.model_validate(fields | more)


def keyring() -> Keyring:
    """This user's keyring, made on first use.

    Raises:
        UsageError: the file is not a keyring.
    """
    path = state_folder() / "keys.json"
    if not path.exists():
        with _locked():
            if not path.exists():
                _write(Keyring(id=secrets.token_hex(8)))
    try:
        return Keyring.model_validate_json(path.read_text(encoding="utf-8"))
    except pydantic.ValidationError as error:
        raise UsageError(
            f"not a keyring: {error.errors()[0]['msg']}",
            where=str(path),
            hint="restore the file, or remove it and make keys again",
        ) from error


def add(
    name: str,
    scopes: Sequence[Scope] = ("predict",),
    endpoints: Sequence[str] = (),
    *,
    rate: float | None = None,
    burst: int | None = None,
    expires_in: timedelta | None = None,
    overlap: timedelta | None = None,
) -> str:
    """A new key under `name`; its text is returned, kept nowhere, and cannot be had again.

    Args:
        overlap: for a name that has a key: how long the old one opens beside the new.

    Raises:
        UsageError: the name is taken and no overlap is given, or is no name; the rate is none.
    """
    if not _NAME.fullmatch(name) or name == OWN:
        raise UsageError(
            f"{name!r} cannot be a key's name",
            expected="lower case letters, digits, `.`, `_`, `-`; `own` is that of `ray-pipeline "
            "key`",
        )
    if (rate is not None and not 0 < rate < math.inf) or (burst is not None and burst < 1):
        raise UsageError("a rate and a burst are above 0", hint="leave them out for no bound")
    text, now = new_text(), _now()
    made = described(
        name,
        text,
        scopes=tuple(scopes),
        endpoints=tuple(endpoints),
        rate=rate,
        burst=burst,
        expires=None if expires_in is None else (now + expires_in).isoformat(),
    )
    keyring()
    with _locked():
        current = keyring()
        live = [key for key in current.keys if not is_expired(key, now)]
        if overlap is None and any(key.name == name for key in live):
            raise UsageError(
                f"there is a key `{name}` already",
                hint="--overlap 7d makes a new one beside it, which is alone after seven days; "
                f"`ray-pipeline keys revoke {name}` ends it at once",
            )
        until = (now + (overlap or timedelta())).isoformat()
        kept = [_ending(key, until) if key.name == name else key for key in live]
        _write(current.model_copy(update={"keys": (*kept, made)}))
    return text


def revoke(name: str) -> int:
    """End every key of that name, and return how many there were.

    Raises:
        UsageError: there is none.
    """
    keyring()
    with _locked():
        current = keyring()
        kept = tuple(key for key in current.keys if key.name != name)
        if len(kept) == len(current.keys):
            known = ", ".join(sorted({key.name for key in current.keys}))
            raise UsageError(
                f"there is no key `{name}`",
                expected=known or "a key that `ray-pipeline keys add` made",
                hint="`ray-pipeline key --new` replaces your own key" if name == OWN else "",
            )
        _write(current.model_copy(update={"keys": kept}))
    return len(current.keys) - len(kept)


def is_expired(key: Key, now: datetime | None = None) -> bool:
    """Whether the key's time is over."""
    return key.expires is not None and datetime.fromisoformat(key.expires) <= (now or _now())


def duration(text: str | None) -> timedelta | None:
    """The length of time that a text such as 90d, 12h or 30m says; None for None.

    Raises:
        UsageError: it says none.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})([dhm])", text)
    if not found:
        raise UsageError(f"{text!r} is no length of time", expected="say 90d, 12h or 30m")
    unit = {"d": "days", "h": "hours", "m": "minutes"}[found[2]]
    return timedelta(**{unit: int(found[1])})


def lines(keys: Sequence[Key]) -> list[str]:
    """What a person is shown of keys."""
    return [
        f"{key.name:<20} …{key.last}  {','.join(key.scopes):<16} "
        f"{','.join(key.endpoints) or 'all endpoints':<20} "
        f"{f'{key.rate:g}/s' if key.rate else 'no limit':<10} "
        f"{_end(key)}"
        for key in keys
    ]


def _end(key: Key) -> str:
    if key.expires is None:
        return "does not expire"
    return f"{'expired' if is_expired(key) else 'expires'} {key.expires}"


def publish(own: str) -> str:
    """Copy this user's hashes to the cluster, where replicas look once a second.

    Args:
        own: the text of the key that `ray-pipeline key` prints.

    Returns:
        The keyring's id.
    """
    from ray_pipeline.deploy import shared

    current = keyring()
    told = current.model_copy(update={"keys": (described(OWN, own, scopes=SCOPES), *current.keys)})
    shared.put(_place(current.id), told.model_dump_json().encode())
    return current.id


def published(keyring_id: str) -> tuple[Key, ...] | None:
    """The keys of a keyring as they were last published on this cluster; None if never."""
    from ray_pipeline.deploy import shared

    content = shared.get(_place(keyring_id))
    return None if content is None else Keyring.model_validate_json(content).keys


def _place(keyring_id: str) -> str:
    return f"keyring/{keyring_id}"


def _ending(key: Key, until: str) -> Key:
    """The key with an end no later than `until`."""
    return key.model_copy(update={"expires": min(key.expires or until, until)})


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _write(current: Keyring) -> None:
    write_private(state_folder() / "keys.json", current.model_dump_json(indent=1) + "\n")


@contextmanager
def _locked() -> Iterator[None]:
    """Two commands at once must not lose each other's key."""
    with (state_folder() / "keys.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
