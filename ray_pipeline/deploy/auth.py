"""Who may call an endpoint: holders of its keys, and of tokens that its identity provider signed.

A replica holds hashes. It finds a key by the first bytes of the hash and compares the whole of it
in a time that does not depend on where they differ; a request pays for one SHA-256 and a look-up.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from ray_pipeline.deploy import keyring, limits
from ray_pipeline.deploy.keyring import SCOPES, Key, Scope
from ray_pipeline.deploy.limits import Bucket
from ray_pipeline.deploy.tokens import Tokens
from ray_pipeline.errors import RequestError
from ray_pipeline.files import state_folder, write_private

Headers = Sequence[tuple[bytes, bytes]]

_EXPECTED = "`Authorization: Bearer KEY` or `X-API-Key: KEY`; `ray-pipeline key` prints the key"
_PREFIX = 8  # bytes of a hash by which it is found


def key(new: bool = False) -> str:
    """This user's own key, for all their endpoints. Made on first use, or again with `new`.

    It is the client's copy, in a private file, so that a command can call an endpoint; all other
    keys are shown once and kept as hashes.
    """
    path = state_folder() / "key"
    if not new and path.exists():
        return path.read_text(encoding="utf-8").strip()
    made = keyring.new_text()
    write_private(path, made + "\n")
    return made


@dataclass(slots=True)
class _Holder:
    """A key as a replica knows it."""

    digest: bytes
    name: str
    scopes: frozenset[Scope]
    """Empty where the key is for other endpoints."""
    expires: float
    """Seconds since 1970; infinite if it does not end."""
    bucket: Bucket | None


class Gate:
    """Lets requests into one endpoint.

    Args:
        endpoint: its name.
        keys: those that open it, and others, which do not.
        tokens: checks an identity provider's tokens, if the endpoint takes them.
    """

    def __init__(self, endpoint: str, keys: Sequence[Key] = (), tokens: Tokens | None = None):
        self.endpoint, self.tokens = endpoint, tokens
        self.replicas = 1
        """How many replicas share the keys' rates."""
        self._holders: dict[bytes, _Holder] = {}
        self.replace(keys)

    def replace(self, keys: Sequence[Key]) -> None:
        """Let in these keys, and no others. What was used of a rate stays used."""
        known = {holder.digest: holder.bucket for holder in self._holders.values()}
        holders = [_holder(key, self.endpoint) for key in keys]
        for holder in holders:
            old, new = known.get(holder.digest), holder.bucket
            if old and new and (old.rate, old.burst) == (new.rate, new.burst):
                holder.bucket = old
        self._holders = {holder.digest[:_PREFIX]: holder for holder in holders}

    def admitted(self, headers: Headers, scope: Scope = "predict") -> limits.Headers:
        """Let a request pass, and return what its answer's headers say of the key's rate.

        Raises:
            RequestError: as `check` does; 429 with a key that was used too often.
        """
        holder = self.check(headers, scope)
        return holder.bucket.taken(self.replicas) if holder and holder.bucket else ()

    def check(self, headers: Headers, scope: Scope = "predict") -> _Holder | None:
        """Whose key a request has, None for a token; its rate is not touched.

        Raises:
            RequestError: 401 without a key or with a bad token, 403 with a key that is wrong, has
                expired or does not open this.
        """
        given = _given(headers)
        if not given:
            raise RequestError(
                "this endpoint needs an API key",
                status=401,
                code="no_key",
                expected=_EXPECTED,
                headers=((b"www-authenticate", b"Bearer"),),
            )
        digest = sha256(given).digest()
        holder = self._holders.get(digest[:_PREFIX])
        if holder is None or not hmac.compare_digest(holder.digest, digest):
            if self.tokens is not None and given.count(b".") == 2:
                self._check_scope(self.tokens.scopes(given, digest), scope)
                return None
            raise RequestError(
                "the API key is wrong", status=403, code="wrong_key", expected=_EXPECTED
            )
        if time.time() >= holder.expires:
            raise RequestError("the API key has expired", status=403, code="expired_key")
        self._check_scope(holder.scopes, scope)
        return holder

    def caller(self, headers: Headers) -> str:
        """Who sent a request that was admitted: the same for a key and the one that replaces it,
        and for all tokens of one subject. It tells nothing of the key."""
        digest = sha256(_given(headers)).digest()
        holder = self._holders.get(digest[:_PREFIX])
        if holder is not None:
            return f"key {holder.name}"
        subject = self.tokens.subject(digest) if self.tokens else ""
        return "token " + sha256(subject.encode() or digest).hexdigest()

    def _check_scope(self, scopes: frozenset[Scope], scope: Scope) -> None:
        if scope not in scopes:
            raise RequestError(
                f"this key does not open `{scope}` of {self.endpoint}",
                status=403,
                code="wrong_scope",
                expected="a key with that scope, for this endpoint",
            )


def _holder(key: Key, endpoint: str) -> _Holder:
    here = not key.endpoints or endpoint in key.endpoints
    scopes = frozenset(SCOPES if "admin" in key.scopes else key.scopes) if here else frozenset()
    burst = key.burst or max(1, math.ceil(key.rate or 1))
    return _Holder(
        bytes.fromhex(key.hash),
        key.name,
        scopes,
        datetime.fromisoformat(key.expires).timestamp() if key.expires else math.inf,
        Bucket(key.rate, burst) if key.rate else None,
    )


def _given(headers: Headers) -> bytes:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            return value.strip()
    return b""
