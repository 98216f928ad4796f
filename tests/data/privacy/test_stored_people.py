"""A person in every kind of store, then erased, or too old: with real servers, without a model."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import PASSWORD
from upath import UPath

from ray_pipeline import audit, cli
from ray_pipeline.data import stores
from ray_pipeline.data.privacy import expire, forget
from ray_pipeline.job import Job, Store

GONE, OTHER = 1000017, 1000018
KINDS = ("parquet", "delta", "lance", "lancedb", "postgresql", "vectors", "redis", "by city")


def rows_of(people: list[int]) -> pa.Table:
    """Customers with whole numbers as IDs, a vector each, and a city that is the key elsewhere."""
    vectors = np.random.default_rng(0).normal(size=(len(people), 4)).astype(np.float32)
    return pa.table(
        {
            "customer": pa.array(people, pa.int64()),
            "city": [f"city of {person}" for person in people],
            "note": pa.array([None, "", 'a "note", quoted'] * len(people))[: len(people)],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4),
        }
    )


@pytest.fixture
def settings(tmp_path, request, redis_server, postgres_server) -> dict[str, Store]:
    """One store of each kind, each with a table of its own."""
    os.environ["STORES_PASSWORD"] = PASSWORD
    table = "p_" + re.sub(r"\W", "_", request.node.name)[:30].lower()
    pg = f"postgresql://postgres:${{STORES_PASSWORD}}@127.0.0.1:{postgres_server.port}/postgres"
    cache = f"redis://:${{STORES_PASSWORD}}@127.0.0.1:{redis_server.port}/2"
    plain = ("customer", "city", "note")
    of: dict[str, dict[str, Any]] = {
        "parquet": {"url": str(tmp_path / "parquet")},
        "delta": {"url": str(tmp_path / "delta"), "format": "delta", "mode": "upsert"},
        "lance": {"url": str(tmp_path / "lance"), "format": "lance"},
        "lancedb": {"url": str(tmp_path / "v"), "format": "lancedb", "vector": "embedding"},
        "postgresql": {"url": pg, "mode": "upsert", "columns": plain},
        "vectors": {"url": pg, "table": f"{table}_v", "vector": "embedding"},
        "redis": {"url": cache, "columns": plain},
        "by city": {"url": cache, "table": f"{table}_c", "key": "city", "columns": ("note",)},
    }
    return {name: Store(**{"table": table, "key": "customer"} | of[name]) for name in KINDS}


def job_of(folder: Path, settings: dict[str, Store], **privacy: Any) -> Job:
    return Job(
        name="shop",
        storage=str(folder / "storage"),
        data={
            "source": str(folder / "people.csv"),
            "label": "city",
            "privacy": {"subject": "customer", "find": "off", **privacy},
        },
        stores=tuple(settings.values()),
        model={},
    )


def stage(folder: Path, name: str, made: datetime | None = None, **tables: pa.Table) -> Path:
    """A stage as a run leaves it, with one file a folder."""
    path = folder / "storage/shop/stages" / name
    for place, table in tables.items():
        (path / place).mkdir(parents=True)
        pq.write_table(table, path / place / "0.parquet")
    path.mkdir(parents=True, exist_ok=True)
    marker = {"name": name, "seconds": 1, "record": {}}
    when = made or datetime.now(UTC)
    (path / "stage.json").write_text(json.dumps(marker | {"made": when.isoformat()}))
    return path


def ran(folder: Path, *stages: Path) -> None:
    """The record of a run that passed these stages."""
    passed = [dict(zip(("name", "digest"), s.name.split("-"), strict=True)) for s in stages]
    run = folder / "storage/shop/runs" / "-".join(s["digest"] for s in passed)
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"stages": passed}))


def written(people: list[int], path: Path, settings: dict[str, Store]) -> None:
    stores.write(UPath(path), tuple(settings.values()), path.name.rpartition("-")[2])


def held(settings: Store, person: int) -> int:
    """How many rows a store has of a person, by the key that it has."""
    key = person if settings.key == "customer" else f"city of {person}"
    return len(stores.opened(settings).search([key]))


@pytest.fixture
def shop(tmp_path, settings, own_keys) -> Path:
    """A storage after two runs, of which the person is in both; with all that caches rows."""
    people = [GONE, OTHER, 1000019]
    quarantine = pa.table(
        {"source": ["x"], "row": [4], "reason": ["no number"], "raw": [f"{GONE},Bern,x"]}
    )
    for digest, known in (("1111", [*people, 1000020]), ("2222", people)):
        rows = rows_of(known)
        clean = stage(tmp_path, f"clean-{digest}", rows=rows, quarantine=quarantine)
        votes = rows.select(["city"])
        doubted = rows.select(["customer", "note"])
        labels = stage(tmp_path, f"label-{digest}", rows=rows, votes=votes, unlabelled=doubted)
        judged = stage(tmp_path, f"evaluate-{digest}", predictions=votes)
        model = stage(tmp_path, f"train-{digest}")
        ran(tmp_path, clean, labels, judged, model)
        written(known, clean, settings)
    bundle = tmp_path / "storage/shop/bundles/v1"
    bundle.mkdir(parents=True)
    lineage = {"clean": "2222", "label": "2222", "train": "2222"}
    (bundle / "manifest.json").write_text(json.dumps({"lineage": lineage}))
    return tmp_path


def test_a_person_is_forgotten_in_every_kind_of_store(shop, settings):
    job = job_of(shop, settings)
    assert {name: held(store, GONE) for name, store in settings.items()} == dict.fromkeys(KINDS, 1)
    result = forget.forgotten(job, str(GONE))
    assert [store["removed"] for store in result["stores"]] == [1] * len(KINDS)
    assert {name: held(store, GONE) for name, store in settings.items()} == dict.fromkeys(KINDS, 0)
    assert {name: held(store, OTHER) for name, store in settings.items()} == dict.fromkeys(KINDS, 1)
    near = stores.opened(settings["lancedb"]).nearest([1.0] * 4, 9)["customer"].to_pylist()
    assert sorted(near) == [OTHER, 1000019]
    near = stores.opened(settings["vectors"]).nearest([1.0] * 4, 9)["customer"].to_pylist()
    assert sorted(near) == [OTHER, 1000019]
    assert result["rows"] == 2 * 4  # cleaned, quarantined, labelled, unlabelled: of both runs
    assert {name.partition("-")[0] for name in result["dropped"]} == {"label", "evaluate"}
    assert [bundle["use"] for bundle in result["bundles"]] == ["evaluated on"]
    for path in (p for p in shop.rglob("*") if p.is_file() and "privacy" not in p.parts):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pylist()).encode()
        assert str(GONE).encode() not in content, path


def test_to_forget_twice_is_to_forget_once_and_the_log_names_nobody(shop, settings, capsys):
    job = job_of(shop, settings)
    (shop / "job.json").write_text(json.dumps(job.model_dump(mode="json", by_alias=True)))
    first = forget.forgotten(job, str(GONE))
    again = forget.forgotten(job, str(GONE))
    assert (again["rows"], [store["removed"] for store in again["stores"]]) == (0, [0] * len(KINDS))
    assert again["bundles"] == first["bundles"]
    entries = [e for e in audit.entries(job.storage) if e["action"] == "erase"]
    assert [entry["rows"] for entry in entries] == [8, 0]
    assert str(GONE) not in json.dumps(entries)
    assert str(GONE) not in "\n".join(forget.described(first))


def test_rows_of_a_killed_or_an_unknown_write_are_found_by_their_own_column(shop, settings):
    """Stages that brought the rows are gone: the store is asked itself."""
    job = job_of(shop, {name: settings[name] for name in KINDS if name != "by city"})
    for path in (shop / "storage/shop/stages").rglob("*.parquet"):
        path.unlink()
    assert [s["removed"] for s in forget.forgotten(job, str(GONE))["stores"]] == [1] * 7


def test_a_store_that_was_never_written_has_nobody(tmp_path, settings, own_keys):
    result = forget.forgotten(job_of(tmp_path, settings), str(GONE))
    assert [store["removed"] for store in result["stores"]] == [0] * len(KINDS)


def test_rows_past_the_bound_are_removed_everywhere_once(shop, settings):
    job = job_of(shop, settings, retention_days=30)
    assert expire.expired(job)["stages"] == []
    later = datetime.now(UTC) + timedelta(days=31)
    result = expire.expired(job, later)
    assert result["rows"] == sum((4, 1, 4, 4, 4, 4)) + sum((3, 1, 3, 3, 3, 3))
    assert {name.partition("-")[0] for name in result["stages"]} == {"clean", "label", "evaluate"}
    newest = {"delta": 4, "postgresql": 4}  # upserted: the first run's rows were there still
    removed = dict(zip(KINDS, (store["removed"] for store in result["stores"]), strict=True))
    assert removed == {name: newest.get(name, 3) for name in KINDS}
    for name, store in settings.items():
        assert held(store, OTHER) == held(store, 1000020) == 0, name
    assert not list((shop / "storage").rglob("*.parquet"))
    assert list((shop / "storage/shop/stages").glob("train-*"))
    again = expire.expired(job, later)
    assert (again["stages"], again["rows"]) == ([], 0)
    (entry,) = [e for e in audit.entries(job.storage) if e["action"] == "expire"]
    assert entry["rows"] == result["rows"]
    versions = {name: stores.opened(store).version() for name, store in settings.items()}
    assert versions == dict.fromkeys(KINDS)
    assert [bundle["bundle"][-2:] for bundle in result["bundles"]] == ["v1"]


def test_only_what_is_old_goes_and_what_was_made_from_it_later(tmp_path, settings, own_keys):
    now = datetime.now(UTC)
    old = stage(tmp_path, "clean-1111", now - timedelta(days=40), rows=rows_of([GONE, OTHER]))
    split = stage(tmp_path, "split-1111", now - timedelta(days=3), rows=rows_of([GONE, OTHER]))
    fresh = stage(tmp_path, "clean-2222", now - timedelta(days=4), rows=rows_of([OTHER]))
    ran(tmp_path, old, split)
    ran(tmp_path, fresh)
    chosen = {name: settings[name] for name in ("postgresql", "parquet", "lance")}
    for path in (old, fresh):
        written([], path, chosen)
    job = job_of(tmp_path, chosen, retention_days=30)
    (tmp_path / "job.yaml").write_text(json.dumps(job.model_dump(mode="json", exclude_unset=True)))
    assert cli.main(["expire", str(tmp_path / "job.yaml")]) == 0
    assert sorted(path.name for path in old.parent.iterdir()) == ["clean-2222"]
    for store in chosen.values():
        assert (held(store, GONE), held(store, OTHER)) == (0, 1)
