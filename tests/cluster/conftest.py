"""A local cluster that takes jobs, shared by the tests of submissions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sites import Site

from ray_pipeline import cluster


class Jobs(Site):
    """A cluster that takes jobs, as `ray-pipeline up --jobs` starts it. Its nodes have a secret."""

    secret = "hush-7-of-a-test"

    def __init__(self, home: Path, code: Path) -> None:
        super().__init__(home)
        self.code = code
        self.environment |= {
            # Where the user's modules are, for whoever submits.
            "PYTHONPATH": f"{code}:{self.environment.get('PYTHONPATH', '')}".rstrip(":"),
        }

    def up(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
                patch.delenv(name, raising=False)
            patch.setenv("SHOP_PASSWORD", self.secret)
            with self.at_home():
                self.record = cluster.up(cpus=2, jobs=True)

    @property
    def token(self) -> str:
        return Path(self.record["token"]).read_text().strip()


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    made = Jobs(tmp_path_factory.mktemp("jobs"), tmp_path_factory.mktemp("code"))
    made.up()
    yield made
    made.down()
