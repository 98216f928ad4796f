"""Keys of a test's own, never those of whoever runs it."""

from __future__ import annotations

import pytest

from ray_pipeline.data.privacy import keys

SECRET = "a secret of the tests, long enough".replace(" ", "-")


@pytest.fixture(autouse=True)
def own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.VARIABLE, SECRET)
