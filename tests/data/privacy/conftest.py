"""Keys of the tests' own, never those of whoever runs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_pipeline.data.privacy import keys


@pytest.fixture(autouse=True, scope="module")
def own_keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(keys.VARIABLE, "a-secret-of-the-tests-long-enough")
        yield
