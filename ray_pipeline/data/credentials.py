"""Users and passwords: taken from the environment at connect time, kept out of all that is said."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ray_pipeline.errors import DataError
from ray_pipeline.job import Source

_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

VARIABLES: dict[str, tuple[str, str]] = {
    "postgresql": ("PGUSER", "PGPASSWORD"),
    "mysql": ("MYSQL_USER", "MYSQL_PWD"),
    "mariadb": ("MYSQL_USER", "MYSQL_PWD"),
    "redis": ("REDIS_USERNAME", "REDIS_PASSWORD"),
    "rediss": ("REDIS_USERNAME", "REDIS_PASSWORD"),
    "mongodb": ("MONGODB_USERNAME", "MONGODB_PASSWORD"),
}
"""The variables of user and password that stand in for those a URL does not name."""


@dataclass(frozen=True)
class Login:
    """A database's URL with its secrets, which travels to the tasks that connect.

    Workers do not see the driver's environment, so it is filled on the driver. Printed, it shows
    nothing.
    """

    url: str = field(repr=False)

    def scrubbed(self, text: object) -> str:
        """`text` without the URL's user and password."""
        parts = urlsplit(self.url)
        secrets = {part for part in (parts.password, parts.username) if part}
        spoken = str(text)
        for secret in sorted(secrets | {unquote(part) for part in secrets}, key=len, reverse=True):
            spoken = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", spoken)
        return spoken


def login(source: Source) -> Login:
    """The source's URL with user and password from the environment.

    Raises:
        DataError: the URL names a variable that is not set.
    """
    return Login(_completed(_NAME.sub(lambda match: _value(match[1], source), source.url), source))


def _value(name: str, source: Source) -> str:
    if name not in os.environ:
        raise DataError(
            f"the URL names ${{{name}}}, which is not set",
            where=str(source),
            hint=f"set {name} in the environment of this command",
        )
    return quote(os.environ[name], safe="")


def _completed(url: str, source: Source) -> str:
    """The URL with the environment's user and password where it has none."""
    if source.scheme not in VARIABLES:
        return url
    parts = urlsplit(url)
    before, _, host = parts.netloc.rpartition("@")
    user, _, password = before.partition(":")
    named, secret = (quote(os.environ.get(name, ""), safe="") for name in VARIABLES[source.scheme])
    user, password = user or named, password or secret
    if not user and not password:
        return url
    filled = f"{user}:{password}@{host}" if password else f"{user}@{host}"
    return urlunsplit(parts._replace(netloc=filled))


def variables(source: Source) -> str:
    """Which variables hold the source's user and password, as a hint to whoever runs it."""
    return " and ".join(_NAME.findall(source.url) or VARIABLES.get(source.scheme) or [])
