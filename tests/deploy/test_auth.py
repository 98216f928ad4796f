"""Keys at the door: who is let in, to what, for how long, and how often."""

from __future__ import annotations

import pytest

from ray_pipeline.deploy import auth
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.keyring import described
from ray_pipeline.errors import RequestError

KEY = "rp_the-key-of-this-test"


def gate(**more):
    return Gate("income", [described("one", KEY, **more)])


def refused(door, headers, scope="predict"):
    with pytest.raises(RequestError) as caught:
        door.admitted(headers, scope)
    return caught.value.status, caught.value.code


def shown(key=KEY):
    return [(b"host", b"x"), (b"x-api-key", key.encode())]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


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
    given = [(name, value.replace(b"KEY", KEY.encode())) for name, value in headers]
    assert gate().admitted(given) == ()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([(b"authorization", b"Basic abc")], 401),
        ([(b"authorization", b"Bearer ")], 401),
        ([(b"x-api-key", b"")], 401),
        ([(b"x-api-key", b"rp_wrong")], 403),
        ([(b"x-api-key", b"a.b.c")], 403),
        ([(b"authorization", b"Bearer \xff\xfe")], 403),
    ],
)
def test_others_stay_out(headers, status):
    assert refused(gate(), headers)[0] == status


def test_part_of_a_key_or_its_hash_is_a_wrong_key():
    (key,) = (described("one", KEY),)
    for given in (KEY[:-1], KEY + "x", key.hash, key.last):
        assert refused(gate(), shown(given)) == (403, "wrong_key")


def test_a_hash_that_begins_like_a_keys_is_not_enough():
    """A key is found by the first bytes of its hash; all of the hash has to be the same."""
    real = described("one", KEY)
    alike = real.model_copy(update={"hash": real.hash[:16] + "0" * 48})
    assert refused(Gate("income", [alike]), shown()) == (403, "wrong_key")


@pytest.mark.parametrize(
    ("scopes", "opened"),
    [
        (("predict",), {"predict"}),
        (("metrics",), {"metrics"}),
        (("predict", "metrics"), {"predict", "metrics"}),
        (("admin",), {"predict", "metrics", "feedback", "admin"}),
    ],
)
def test_a_key_opens_its_scopes_alone(scopes, opened):
    door = gate(scopes=scopes)
    for scope in ("predict", "metrics", "feedback", "admin"):
        if scope in opened:
            door.admitted(shown(), scope)
        else:
            assert refused(door, shown(), scope) == (403, "wrong_scope")


def test_a_key_of_another_endpoint_opens_nothing():
    assert refused(gate(endpoints=("other",)), shown()) == (403, "wrong_scope")
    gate(endpoints=("other", "income")).admitted(shown())


def test_a_key_ends_when_it_says_so():
    assert refused(gate(expires="2020-01-01T00:00:00+00:00"), shown()) == (403, "expired_key")
    gate(expires="2099-01-01T00:00:00+00:00").admitted(shown())


def test_keys_change_while_the_gate_stands():
    door = gate()
    door.replace([described("two", "rp_two")])
    assert refused(door, shown()) == (403, "wrong_key")
    door.admitted(shown("rp_two"))
    door.replace([])
    assert refused(door, shown("rp_two")) == (403, "wrong_key")


def test_a_rate_is_the_keys_own_and_outlives_a_renewal():
    other = described("two", "rp_two")
    limited = described("one", KEY, rate=0.01, burst=2)
    door = Gate("income", [limited, other])
    assert (b"ratelimit", b'"key";r=1;t=100') in door.admitted(shown())
    door.admitted(shown())
    assert refused(door, shown()) == (429, "rate_limited")
    door.replace([limited, other])  # as each second
    assert refused(door, shown()) == (429, "rate_limited")
    assert door.admitted(shown("rp_two")) == ()
