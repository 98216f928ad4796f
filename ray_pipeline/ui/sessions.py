"""Who has signed in to the operator's page: holders of a key with the scope `admin`.

The browser keeps a random number in a cookie, which scripts cannot read and other sites do not
send. Here is kept whose it is by the hash of the key, never the key; it is looked up with every
request, so that a key that is revoked or has expired opens nothing more.
"""

from __future__ import annotations

import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple

from ray_pipeline.deploy import auth, keyring
from ray_pipeline.deploy.asgi import Header
from ray_pipeline.deploy.auth import Headers
from ray_pipeline.deploy.keyring import Key
from ray_pipeline.errors import RequestError

_LASTS_S = 12 * 3600
_MOST = 1000


class Session(NamedTuple):
    """Somebody who has signed in."""

    who: str
    """The name of the key."""
    token: str
    """Goes with every form, so that no other site can send one (CSRF)."""
    key: str
    """The key's hash."""
    until: float


class Sessions:
    """Those of one page. `cookie` is its name: those of one host share what servers on other
    ports set."""

    def __init__(self, port: int) -> None:
        self.cookie = f"ray_pipeline_{port}"
        self._known: dict[str, Session] = {}

    def opened(self, text: str) -> Header:
        """Sign in with the key `text`; the header that sets the cookie.

        Raises:
            RequestError: 403, the key does not open this page.
        """
        found = _admin(keyring.hashed(text.strip()))
        if found is None:
            raise RequestError(
                "this key does not open the page",
                status=403,
                code="wrong_key",
                expected="a key with the scope `admin` for all endpoints; `ray-pipeline key` "
                "prints yours",
            )
        now, number = time.monotonic(), secrets.token_urlsafe(32)
        self._known = {n: one for n, one in self._known.items() if one.until > now}
        while len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)))
        token = secrets.token_urlsafe(32)
        self._known[number] = Session(found.name, token, found.hash, now + _LASTS_S)
        return self._set(number, _LASTS_S)

    def of(self, headers: Headers) -> Session | None:
        """Whose request it is; None where nobody has signed in, or their key opens nothing now."""
        found = self._known.get(self._number(headers))
        if found is None or found.until < time.monotonic() or _admin(found.key) is None:
            return None
        return found

    def ended(self, headers: Headers) -> Header:
        """Sign out; the header that removes the cookie."""
        self._known.pop(self._number(headers), None)
        return self._set("", 0)

    def _number(self, headers: Headers) -> str:
        jar = SimpleCookie()
        for name, value in headers:
            if name == b"cookie":
                try:
                    jar.load(value.decode("latin-1"))
                except CookieError:
                    return ""  # set by another server of this host, and not readable
        return jar[self.cookie].value if self.cookie in jar else ""

    def _set(self, value: str, lasts_s: int) -> Header:
        told = f"{self.cookie}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Strict"
        return b"set-cookie", told.encode()


def check_token(session: Session, given: str) -> None:
    """Raises RequestError where a form was not made by this page for this session."""
    if not hmac.compare_digest(session.token.encode(), given.encode()):
        raise RequestError(
            "the form is not of this session",
            status=403,
            code="wrong_token",
            expected="a form that this page has made since you signed in; load it again",
        )


def _admin(digest: str) -> Key | None:
    """The key with that hash, if it opens everything now."""
    own = keyring.described(keyring.OWN, auth.key(), scopes=keyring.SCOPES)
    for key in (own, *keyring.keyring().keys):
        if hmac.compare_digest(key.hash, digest):
            opens = "admin" in key.scopes and not key.endpoints
            return key if opens and not keyring.is_expired(key) else None
    return None
