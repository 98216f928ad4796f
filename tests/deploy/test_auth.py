"""Keys: made once, kept private, compared whole."""

from __future__ import annotations

import re
import stat

import pytest

from ray_pipeline.deploy import auth
from ray_pipeline.errors import RequestError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_key_is_made_once_and_again_when_asked():
    first = auth.key()
    assert re.fullmatch(r"rp_[\w-]{43}", first)
    assert auth.key() == first
    second = auth.key(new=True)
    assert second != first
    assert auth.key() == second


def test_nobody_else_can_read_the_key(home):
    auth.key()
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_failed_write_leaves_what_was_there(home, monkeypatch):
    first = auth.key()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        auth.key(new=True)
    assert auth.key() == first
    assert [path.name for path in home.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer KEY")],
        [(b"authorization", b"bearer   KEY ")],
        [(b"host", b"x"), (b"x-api-key", b"KEY")],
    ],
)
def test_either_header_lets_in(headers):
    key = auth.key()
    given = [(name, value.replace(b"KEY", key.encode())) for name, value in headers]
    auth.check(given, auth.key_hash(key))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([(b"authorization", b"Basic abc")], 401),
        ([(b"authorization", b"Bearer ")], 401),
        ([(b"x-api-key", b"")], 401),
        ([(b"x-api-key", b"rp_wrong")], 403),
        ([(b"authorization", b"Bearer \xff\xfe")], 403),
    ],
)
def test_others_stay_out(headers, status):
    with pytest.raises(RequestError) as caught:
        auth.check(headers, auth.key_hash(auth.key()))
    assert caught.value.status == status


def test_part_of_a_key_or_its_hash_is_a_wrong_key():
    key = auth.key()
    for given in (key[:-1], key + "x", auth.key_hash(key)):
        with pytest.raises(RequestError) as caught:
            auth.check([(b"x-api-key", given.encode())], auth.key_hash(key))
        assert caught.value.status == 403


def test_without_a_hash_everybody_may_call():
    auth.check([], None)
