"""API keys: one for all of a user's endpoints, in a private file; replicas hold its hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from ray_pipeline.errors import RequestError
from ray_pipeline.files import state_folder, write_private

Headers = Sequence[tuple[bytes, bytes]]

_EXPECTED = "`Authorization: Bearer KEY` or `X-API-Key: KEY`; `ray-pipeline key` prints the key"


def key(new: bool = False) -> str:
    """The API key: `rp_` and 256 random bits. Made on first use, or again with `new`.

    Endpoints take the new key when they are next deployed.
    """
    path = state_folder() / "key"
    if not new and path.exists():
        return path.read_text(encoding="utf-8").strip()
    made = f"rp_{secrets.token_urlsafe(32)}"
    write_private(path, made + "\n")
    return made


def key_hash(text: str) -> str:
    """What a replica keeps of a key: its sha256. 256 random bits need no salt."""
    return hashlib.sha256(text.encode()).hexdigest()


def check(headers: Headers, wanted: str | None) -> None:
    """Let a request pass if it carries the key whose hash is `wanted`; None lets all pass.

    Raises:
        RequestError: 401 without a key, 403 with a wrong one.
    """
    if wanted is None:
        return
    given = _given(headers)
    if not given:
        raise RequestError(
            "this endpoint needs an API key", status=401, code="no_key", expected=_EXPECTED
        )
    # Hashes are compared, not keys, in a time that does not depend on where they differ.
    if not hmac.compare_digest(hashlib.sha256(given).hexdigest(), wanted):
        raise RequestError("the API key is wrong", status=403, code="wrong_key", expected=_EXPECTED)


def _given(headers: Headers) -> bytes:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            return value.strip()
    return b""
