"""A user's keys: made, replaced, ended, and never kept."""

from __future__ import annotations

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from ray_pipeline import cli
from ray_pipeline.deploy import auth, keyring
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.errors import RequestError, UsageError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "state"


def opens(text, door=None):
    door = door or Gate("income", keyring.keyring().keys)
    try:
        door.admitted([(b"x-api-key", text.encode())])
    except RequestError as error:
        return error.code
    return True


def test_the_own_key_is_made_once_and_again_when_asked():
    first = auth.key()
    assert re.fullmatch(r"rp_[\w-]{43}", first)
    assert auth.key() == first
    second = auth.key(new=True)
    assert second != first
    assert auth.key() == second


def test_only_hashes_and_four_characters_are_kept(home):
    text = keyring.add("app", ("predict", "metrics"), ("income",), rate=5, burst=9)
    auth.key()
    content = (home / "keys.json").read_text()
    assert text not in content
    assert not any(text[start : start + 5] in content for start in range(len(text) - 4))
    (key,) = keyring.keyring().keys
    assert (key.name, key.last, key.hash) == ("app", text[-4:], keyring.hashed(text))
    assert (key.scopes, key.endpoints, key.rate, key.burst) == (
        ("predict", "metrics"),
        ("income",),
        5,
        9,
    )
    assert opens(text)


def test_nobody_else_can_read_the_files(home):
    keyring.add("app")
    auth.key()
    for name in ("key", "keys.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_rotation_overlaps():
    old = keyring.add("app")
    with pytest.raises(UsageError, match="already"):
        keyring.add("app")
    new = keyring.add("app", overlap=timedelta(days=7))
    assert opens(old) is True
    assert opens(new) is True
    first, second = keyring.keyring().keys
    assert first.expires is not None
    assert second.expires is None
    newest = keyring.add("app", overlap=timedelta(0))
    assert [opens(text) for text in (old, new, newest)] == ["expired_key", "expired_key", True]


def test_an_overlap_lengthens_no_life():
    keyring.add("app", expires_in=timedelta(hours=1))
    before = keyring.keyring().keys[0].expires
    keyring.add("app", overlap=timedelta(days=7))
    assert keyring.keyring().keys[0].expires == before


def test_an_expired_key_frees_its_name():
    old = keyring.add("app", expires_in=timedelta(0))
    assert opens(old) == "expired_key"
    keyring.add("app")
    assert len(keyring.keyring().keys) == 1


def test_a_revoked_key_is_gone():
    one, two = keyring.add("one"), keyring.add("two")
    assert keyring.revoke("one") == 1
    assert (opens(one), opens(two)) == ("wrong_key", True)
    with pytest.raises(UsageError, match="no key `one`"):
        keyring.revoke("one")


@pytest.mark.parametrize("name", ["own", "", "Ä", "a b", "../x", "x" * 64])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="cannot be"):
        keyring.add(name)


def test_keys_that_are_made_at_once_are_all_kept():
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda number: keyring.add(f"k{number}"), range(16)))
    assert all(opens(text) is True for text in texts)


def test_what_is_no_keyring_is_told_without_its_content(home):
    keyring.add("app")
    (home / "keys.json").write_text('{"id": "x", "secret": "planted"}')
    with pytest.raises(UsageError) as caught:
        keyring.keyring()
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "length"), [("90d", timedelta(90)), ("12h", timedelta(0.5)), (None, None)]
)
def test_lengths_of_time(text, length):
    assert keyring.duration(text) == length


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "1w", "999999d"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(UsageError):
        keyring.duration(text)


def test_the_command(capsys):
    arguments = ["keys", "add", "app", "--scope", "metrics", "--rate", "2", "--expires", "90d"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out.strip()
    assert cli.main(["keys", "list"]) == 0
    line = capsys.readouterr().out
    assert re.match(rf"app +…{re.escape(text[-4:])}  metrics +all endpoints +2/s +expires 20", line)
    assert cli.main(["keys", "list", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["keys"][0]["last"] == text[-4:]
    assert "hash" not in printed["keys"][0]
    assert cli.main(["keys", "revoke", "app"]) == 0
    assert cli.main(["keys", "revoke", "app"]) == 2
    assert cli.main(["keys", "add"]) == 2
    for wrong in (["--expires", "soon"], ["--rate", "0"], ["--rate", "nan"], ["--burst", "0"]):
        assert cli.main(["keys", "add", "x", *wrong]) == 2


def test_the_cluster_has_the_hashes_alone(ray_cluster):
    own = auth.key()
    text = keyring.add("app")
    ring = keyring.publish(own)
    keys = keyring.published(ring)
    assert [(key.name, key.last) for key in keys] == [("own", own[-4:]), ("app", text[-4:])]
    door = Gate("income", keys)
    assert opens(own, door) is True
    assert opens(text, door) is True
    keyring.revoke("app")
    keyring.publish(own)
    door.replace(keyring.published(ring))
    assert opens(text, door) == "wrong_key"
    assert keyring.published("another") is None
