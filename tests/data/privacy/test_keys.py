"""Hashes of personal values against hmac itself; rotation; secrets that never show."""

from __future__ import annotations

import hashlib
import hmac
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data.privacy import keys
from ray_pipeline.data.privacy.keys import Key
from ray_pipeline.errors import JobError

KEY = Key(b"0123456789abcdef")


@given(st.text())
def test_a_hash_is_the_first_128_bits_of_hmac_sha256_behind_the_keys_id(value):
    whole = hmac.new(KEY.secret, value.encode(), hashlib.sha256).hexdigest()
    assert KEY.hashed(value) == f"{KEY.id}:{whole[:32]}"
    assert keys.is_hash(KEY.hashed(value))


@given(st.lists(st.text(), unique=True, max_size=30))
def test_equal_values_stay_equal_and_different_ones_different(values):
    hashed = KEY.all_hashed(values + values)
    assert hashed[: len(values)] == hashed[len(values) :]
    assert len(set(hashed)) == len(values)


@given(st.lists(st.text(), max_size=10))
def test_hashing_twice_is_hashing_once(values):
    assert KEY.all_hashed(KEY.all_hashed(values)) == KEY.all_hashed(values)


def test_another_key_gives_another_hash_and_hashes_the_hash_of_a_stranger():
    other = Key(b"fedcba9876543210")
    assert other.hashed("Ann") != KEY.hashed("Ann")
    assert other.all_hashed([KEY.hashed("Ann")]) == [other.hashed(KEY.hashed("Ann"))]


def test_a_secret_is_not_shown():
    assert "0123456789abcdef" not in repr(KEY) + str(KEY) + KEY.id
    assert "0123456789abcdef" not in KEY.hashed("Ann")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.VARIABLE)
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(tmp_path))
    return tmp_path


def test_after_a_rotation_the_new_key_hashes_and_the_old_still_resolves(home):
    (old,) = keys.keys()
    new, kept = keys.rotated()
    assert kept == old
    assert keys.keys() == (new, old)
    assert new.id != old.id
    hashed = old.hashed("Ann")
    found = keys.key_called(hashed.partition(":")[0], keys.keys())
    assert found.hashed("Ann") == hashed


def test_only_its_owner_can_read_the_file_of_keys(home):
    keys.keys()
    assert stat.S_IMODE((home / "privacy_keys").stat().st_mode) == 0o600


def test_keys_of_the_environment_come_first_and_are_not_rotated_by_us(home, monkeypatch):
    monkeypatch.setenv(keys.VARIABLE, "a-new-long-secret an-old-long-secret")
    known = keys.keys()
    assert [key.secret for key in known] == [b"a-new-long-secret", b"an-old-long-secret"]
    with pytest.raises(JobError, match="environment"):
        keys.rotated()


@pytest.mark.parametrize("given", ["short", "", "long-enough-secret short"])
def test_a_short_secret_is_refused_and_not_quoted(home, monkeypatch, given):
    monkeypatch.setenv(keys.VARIABLE, given)
    with pytest.raises(JobError, match="too short") as error:
        keys.keys()
    assert "long-enough-secret" not in str(error.value)


def test_a_key_that_is_not_here_is_named(home):
    with pytest.raises(JobError, match="`abcdef`"):
        keys.key_called("abcdef", keys.keys())
