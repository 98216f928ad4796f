"""Tokens of an identity provider (JWT, as OpenID Connect and OAuth 2 give them), verified here.

Only signatures by the algorithms that the job names are looked at, which are all asymmetric: no
`none`, and no secret that an endpoint could leak. A key that the provider says is for one
algorithm verifies no other.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ray_pipeline.deploy.keyring import SCOPES, Scope
from ray_pipeline.errors import JobError, RequestError
from ray_pipeline.job.serve import Jwt

_LOGGER = logging.getLogger("ray.serve")
_KNOWN = 4096
"""Verified tokens that are remembered: a signature takes 50 times as long as a look-up."""
_MAX_JWKS = 1_000_000
_RETRY_S = 10.0
_WITHIN_S = 5.0


class Tokens:
    """Verifies tokens; knows no keys until `refresh` has read them.

    Args:
        settings: the job's `serve.jwt`.

    Raises:
        JobError: PyJWT is not installed.
    """

    def __init__(self, settings: Jwt) -> None:
        try:
            import jwt
        except ImportError as error:
            raise JobError(
                "verifying tokens needs PyJWT",
                where="serve.jwt",
                hint="pip install 'ray-pipeline[jwt]'",
            ) from error
        self._jwt, self._settings = jwt, settings
        self._keys: dict[str, Any] = {}
        self._verified: dict[bytes, tuple[float, frozenset[Scope], str]] = {}
        self._read_at, self._unknown_key = -float("inf"), False

    def refresh(self) -> None:
        """Read the provider's keys; blocks.

        Raises:
            JobError: they cannot be read, or none is usable.
        """
        self._read_at, self._unknown_key = time.monotonic(), False
        where = self._settings.jwks
        try:
            document = json.loads(_content(where))
            found = self._jwt.PyJWKSet.from_dict(document).keys
        except (OSError, ValueError, self._jwt.PyJWTError, AttributeError) as error:
            raise JobError(
                f"the identity provider's keys cannot be read: {type(error).__name__}",
                where=f"serve.jwt.jwks: {where}",
                expected="a JSON Web Key Set with a public key for a pinned algorithm",
            ) from error
        keys = {key.key_id or "": key for key in found if key.public_key_use in (None, "sig")}
        if keys.keys() != self._keys.keys():
            self._verified.clear()  # what a withdrawn key signed is out
        self._keys = keys

    def refresh_if_due(self) -> None:
        """As `refresh`, when that was long ago or a token names a key that is not known yet.

        What fails is logged, and tried again; keys read before stay.
        """
        age = time.monotonic() - self._read_at
        if age < (_RETRY_S if self._unknown_key or not self._keys else self._settings.refresh_s):
            return
        try:
            self.refresh()
        except JobError as error:
            _LOGGER.warning("%s", error)

    def scopes(self, token: bytes, digest: bytes) -> frozenset[Scope]:
        """What the token opens. `digest` is its sha256.

        Raises:
            RequestError: 401, it is not signed by the provider, not for this, or over.
        """
        known = self._verified.get(digest)
        if known is None:
            known = self._verify(token)
            if len(self._verified) >= _KNOWN:  # the oldest is most likely over
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = known
        if time.time() >= known[0]:
            del self._verified[digest]
            raise _refused("it has expired")
        return known[1]

    def subject(self, digest: bytes) -> str:
        """The `sub` of a token that was verified, empty if it has none. `digest` is its sha256."""
        known = self._verified.get(digest)
        return known[2] if known else ""

    def _verify(self, token: bytes) -> tuple[float, frozenset[Scope], str]:
        settings, jwt = self._settings, self._jwt
        try:
            header = jwt.get_unverified_header(token)
            signer = self._keys.get(header.get("kid", ""))
            if signer is None:
                self._unknown_key = True
                raise _refused("no key of the identity provider has its `kid`")
            claims = jwt.decode(
                token,
                signer,
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            # The kind alone: messages may hold parts of the token.
            raise _refused(type(error).__name__) from None
        told = claims.get(settings.scopes_claim, ())
        names = set(told.split() if isinstance(told, str) else told if _is_texts(told) else ())
        opened = SCOPES if "admin" in names else [scope for scope in SCOPES if scope in names]
        until = float(claims["exp"]) + settings.leeway_s
        return until, frozenset(opened), str(claims.get("sub", ""))


def _content(where: str) -> bytes:
    if "://" not in where:
        return Path(where).read_bytes()
    with urllib.request.urlopen(where, timeout=_WITHIN_S) as answer:  # noqa: S310 - checked: http(s)
        content: bytes = answer.read(_MAX_JWKS)
        return content


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _refused(why: str) -> RequestError:
    return RequestError(
        f"the token is not accepted: {why}",
        status=401,
        code="bad_token",
        headers=((b"www-authenticate", b'Bearer error="invalid_token"'),),
    )
