"""Tokens of an identity provider, signed for real, and those that were tampered with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time

import jwt
import pydantic
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.tokens import Tokens
from ray_pipeline.errors import JobError, RequestError
from ray_pipeline.job.serve import Jwt, Serve

SIGNER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
ISSUER, AUDIENCE = "https://id.example", "predictions"


def jwk(key, kid, algorithm="RS256"):
    kind = jwt.algorithms.ECAlgorithm if algorithm.startswith("ES") else jwt.algorithms.RSAAlgorithm
    public = kind.to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": kid, "alg": algorithm, "use": "sig"}


def written(path, *keys):
    path.write_text(json.dumps({"keys": list(keys)}))
    return str(path)


@pytest.fixture
def settings(tmp_path):
    return Jwt(
        issuer=ISSUER,
        audience=AUDIENCE,
        jwks=written(tmp_path / "jwks.json", jwk(SIGNER, "one"), jwk(CURVE, "curve", "ES256")),
        algorithms=("RS256",),
        leeway_s=0,
    )


@pytest.fixture
def gate(settings):
    tokens = Tokens(settings)
    tokens.refresh()
    return Gate("income", tokens=tokens)


def token(key=SIGNER, kid="one", algorithm="RS256", **claims):
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 60,
        "sub": "someone",
        "scope": "openid predict",
    }
    kept = {name: value for name, value in (usual | claims).items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={"kid": kid} if kid else {})


def outcome(gate, text, scope="predict"):
    try:
        gate.admitted([(b"authorization", b"Bearer " + text.encode())], scope)
    except RequestError as error:
        return error.status
    return 200


def test_a_signed_token_opens_its_scopes(gate):
    text = token()
    assert outcome(gate, text) == 200
    assert outcome(gate, text) == 200  # remembered
    assert outcome(gate, text, "metrics") == 403
    assert outcome(gate, token(scope="metrics")) == 403
    assert outcome(gate, token(scope=["predict", "x"])) == 200
    assert outcome(gate, token(scope="admin"), "metrics") == 200
    assert outcome(gate, token(scope=None)) == 403
    assert outcome(gate, token(scope={"predict": 1})) == 403


def test_another_claim_may_hold_the_scopes(settings):
    tokens = Tokens(settings.model_copy(update={"scopes_claim": "roles"}))
    tokens.refresh()
    gate = Gate("income", tokens=tokens)
    assert outcome(gate, token(roles=["predict"])) == 200
    assert outcome(gate, token()) == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"nbf": 4_000_000_000},
        {"key": OTHER},
        {"kid": "two"},
        {"kid": None},
        {"algorithm": "RS512"},
        {"key": CURVE, "kid": "curve", "algorithm": "ES256"},  # not among the job's algorithms
        {"key": CURVE, "kid": "one", "algorithm": "ES256"},
    ],
)
def test_a_token_that_is_not_meant_for_this_is_refused(gate, wrong):
    assert outcome(gate, token(**wrong)) == 401


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_the_classical_forgeries_are_refused(gate):
    head, body, signature = token().split(".")
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 60, "scope": "admin"}
    unsigned = f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims)}."
    pem = SIGNER.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    told = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims)}"
    mac = hmac.new(pem, told.encode(), hashlib.sha256).digest()
    secret = f"{told}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    for text in (
        unsigned,
        secret,
        f"{head}.{part(claims)}.{signature}",
        f"{head}.{body}.",
        "a.b.c",
    ):
        assert outcome(gate, text) == 401


def test_a_token_ends_though_it_was_seen_before(gate):
    text = token(exp=int(time.time()) + 1)
    assert outcome(gate, text) == 200
    time.sleep(1.1)
    assert outcome(gate, text) == 401


def test_errors_say_nothing_of_a_token(gate):
    text = token(aud="planted")
    with pytest.raises(RequestError) as caught:
        gate.admitted([(b"authorization", b"Bearer " + text.encode())])
    assert "planted" not in str(caught.value)
    assert dict(caught.value.headers)[b"www-authenticate"] == b'Bearer error="invalid_token"'
    assert caught.value.__cause__ is None


def test_the_providers_keys_may_change(settings, tmp_path, monkeypatch):
    tokens = Tokens(settings)
    tokens.refresh()
    gate, old = Gate("income", tokens=tokens), token()
    assert outcome(gate, old) == 200
    written(tmp_path / "jwks.json", jwk(OTHER, "two"))
    new = token(key=OTHER, kid="two")
    assert outcome(gate, new) == 401
    tokens.refresh_if_due()  # ten seconds have not passed
    assert outcome(gate, new) == 401
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    tokens.refresh_if_due()
    assert outcome(gate, new) == 200
    assert outcome(gate, old) == 401  # the withdrawn key's tokens are not remembered
    (tmp_path / "jwks.json").write_text("gone")
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000)
    tokens.refresh_if_due()  # logged; the keys that were read stay
    assert outcome(gate, new) == 200


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "RSA"}]}'])
def test_keys_that_cannot_be_read(settings, tmp_path, content):
    (tmp_path / "jwks.json").write_text(content)
    with pytest.raises(JobError, match="cannot be read"):
        Tokens(settings).refresh()


def test_keys_are_fetched_from_a_url(settings, tmp_path):
    handler = lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory=str(tmp_path))  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    tokens = Tokens(Jwt(issuer=ISSUER, audience=AUDIENCE, jwks=url))
    tokens.refresh()
    server.shutdown()
    server.server_close()
    assert outcome(Gate("income", tokens=tokens), token()) == 200


def test_settings_that_would_let_in_others():
    for wrong in (
        {"jwks": "http://id.example/jwks"},
        {"jwks": "ftp://x/y"},
        {"algorithms": ("HS256",)},
        {"algorithms": ()},
        {"algorithms": ("none",)},
    ):
        with pytest.raises(pydantic.ValidationError):
            Jwt(**{"issuer": "i", "audience": "a", "jwks": "https://id.example/jwks"} | wrong)
    with pytest.raises(pydantic.ValidationError, match="lets everybody in"):
        Serve(auth="none", jwt=Jwt(issuer="i", audience="a", jwks="keys.json"))
