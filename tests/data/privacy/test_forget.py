"""A real run over planted people: none of it is stored; one is forgotten, and stays so."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ray_pipeline import audit, bundle, cli, pipeline
from ray_pipeline.data.privacy import forget, keys, stored
from ray_pipeline.deploy import batch, publish
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.errors import GateRefused, JobError
from ray_pipeline.job import Job

GONE = "CUST-00017"
PEOPLE = 300


class Quiet:
    def started(self, stage): ...
    def event(self, stage, event): ...
    def ended(self, stage): ...


def person(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    mail = f"planted.{number}@example.com"
    age, spend = rng.randint(18, 79), round(rng.random() * 100, 2)
    return {
        "customer_id": f"CUST-{number:05d}",
        "name": "Plantedname " + "".join(rng.choices("aeiounrst", k=6)).title(),
        "email": mail,
        "phone": f"+1 212-555-{number:04d}",
        "age": age if number % 50 else "unspeakable",
        "city": rng.choice(["Bern", "Oslo", "Rome"]),
        "comment": f"reach me at {mail} please",
        "spend": spend,
        "bought": "yes" if age + spend > 90 else "no",
    }


PRIVACY = {
    "subject": "customer_id",
    "columns": {
        "name": "mask",
        "email": "drop",
        "phone": "hash",
        "age": {"generalise": 10},
        "comment": {"mask": ["EMAIL"]},
    },
    "quasi_identifiers": ["age", "city"],
    "retention_days": 30,
}


def job_in(folder: Path, **privacy: Any) -> Job:
    return Job(
        name="shop",
        storage=str(folder / "storage"),
        data={
            "source": str(folder / "people.csv"),
            "label": "bought",
            "columns": {"age": "integer", "phone": {"kind": "category", "role": "ignore"}},
            "privacy": {**PRIVACY, **privacy},
        },
        stores=[{"url": str(folder / "table"), "key": "customer_id"}],
        model={"width": 8, "depth": 1},
        train={"epochs": 1},
    )


def write_people(path: Path) -> None:
    people = [person(number) for number in range(PEOPLE)]
    lines = [",".join(people[0])] + [",".join(map(str, row.values())) for row in people]
    lines.append("CUST-99999,Plantedname Broken,planted.broken@example.com")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def original(tmp_path_factory, ray_cluster, own_keys) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("shop")
    write_people(folder / "people.csv")
    record = pipeline.run(job_in(folder), Quiet(), until="export")
    (exported,) = (folder / "storage/shop/stages").glob("export-*")
    version = exported.name.rpartition("-")[2]
    publish.published(UPath(exported), UPath(folder / "storage/shop/bundles" / version))
    return folder, record


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy of the run's storage, at the path that it names itself by."""
    kept, _ = original
    shutil.copytree(kept / "storage", tmp_path / "storage")
    shutil.copytree(kept / "table", tmp_path / "table")
    shutil.copy(kept / "people.csv", tmp_path)
    return tmp_path


def stored_texts(folder: Path) -> dict[Path, str]:
    """All that is stored, by file: the bytes, and of parquet its values."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[path] = path.read_bytes().decode("utf-8", "ignore")
            if path.suffix == ".parquet":
                found[path] += str(pq.read_table(path).to_pylist())
    return found


def test_nothing_that_a_treatment_removes_is_stored_anywhere(original):
    folder, record = original
    texts = stored_texts(folder / "storage") | stored_texts(folder / "table")
    texts[Path("the record")] = json.dumps(record, default=str)
    assert len(texts) > 20
    for planted in ("Plantedname", "planted.", "555-0", "unspeakable"):
        assert not [path for path, text in texts.items() if planted in text], planted
    assert any(keys.keys()[0].hashed("+1 212-555-0001") in text for text in texts.values())


def test_no_row_is_lost_and_each_has_its_reason(original):
    clean = stage_of(original[1], "clean")
    assert clean["rows_in"] == PEOPLE + 1 == clean["rows_out"] + clean["rows_quarantined"]
    assert clean["quarantine"]["age: expected integer"] == PEOPLE // 50


def test_the_report_says_what_was_found_where_and_never_a_value(original):
    found = stage_of(original[1], "privacy")["found"]
    assert found["email"]["entities"].keys() >= {"EMAIL"}
    assert found["phone"]["entities"].keys() >= {"PHONE"}
    assert found["comment"]["entities"].keys() >= {"EMAIL"}
    assert found["name"]["entities"].keys() >= {"PERSON"}
    assert not {"spend", "city", "bought"} & found.keys()
    page = Path(original[1]["report"]).read_text()
    assert "Personal data" in page
    assert "Anonymity and retention" in page


def test_k_and_l_are_those_of_pandas(original):
    folder, record = original
    rows = [table_of(path) for path in (folder / "storage").glob("shop/stages/clean-*/rows/*")]
    frame = rows[0].to_pandas()
    groups = frame.groupby(["age", "city"], dropna=False)
    sizes, found = groups.size(), stage_of(record, "anonymity")
    assert found["k"] == sizes.min()
    assert found["below"] == sizes[sizes < 5].sum()
    assert found["unique"] == (sizes == 1).sum() / len(frame)
    assert found["l"] == groups["bought"].nunique().min()


def test_the_summaries_show_no_ids(original):
    columns = stage_of(original[1], "clean")["columns"]
    assert not {"top", "min", "max", "histogram"} & columns["customer_id"].keys()
    assert all(count >= 5 for _, count in columns["city"]["top"])


def test_the_audit_log_tells_of_reading_and_of_each_stage(original):
    folder, record = original
    entries = list(audit.entries(str(folder / "storage")))
    assert audit.verify(str(folder / "storage"))["entries"] == len(entries)
    written = {entry["digest"] for entry in entries if entry["action"] == "write"}
    assert written >= {s["digest"] for s in record["stages"] if s["digest"]}
    assert [e["what"] for e in entries if e["action"] == "read"] == [[str(folder / "people.csv")]]


def test_requests_and_files_are_treated_as_the_rows_were(folder, ray_cluster):
    (path,) = folder.glob("storage/shop/bundles/*")
    predictor = Predictor(bundle.opened(path))
    assert predictor.manifest.privacy == {"age": {"generalise": 10}}

    def answer(age: float) -> Any:
        cities = np.array(["Bern"], object)
        columns = {"age": np.array([age]), "city": cities, "spend": np.array([40.0])}
        return predictor.predict(columns).tolist()

    assert answer(37) == answer(30) != answer(60)
    output = folder / "predicted.parquet"
    counts = batch.predicted(str(path), str(folder / "people.csv"), str(output))
    assert counts["rows_in"] == PEOPLE + 1
    row = pq.read_table(output, filters=[("customer_id", "=", "CUST-00017")]).to_pylist()[0]
    asked = {"age": np.array([float(row["age"])]), "spend": np.array([float(row["spend"])])}
    asked["city"] = np.array([row["city"]], object)
    assert row["probability"] == pytest.approx(predictor.predict(asked).max(), abs=1e-6)
    assert forget.forgotten(job_in(folder), GONE)["predictions"] == [str(output)]


def test_a_person_is_forgotten_everywhere_and_a_search_proves_it(folder):
    job = job_in(folder)
    assert any(GONE in text for text in stored_texts(folder / "storage").values())
    result = forget.forgotten(job, GONE)
    assert result["rows"] >= 2  # clean and split
    looked = result["search"]
    assert looked["files"] > 20
    assert looked["rows"] > PEOPLE
    assert (looked["left"], looked["mentions"]) == ([], {})
    assert result["stores"][0]["removed"] == 1
    assert any(name.startswith("features-") for name in result["dropped"])
    assert result["source"] == [str(folder / "people.csv")]
    (trained,) = result["bundles"]
    assert Path(trained["bundle"], "manifest.json").exists()
    texts = stored_texts(folder / "storage") | stored_texts(folder / "table")
    hashed = keys.keys()[0].hashed(GONE)
    assert not [path for path, text in texts.items() if GONE in text]
    assert {path.parent.name for path, text in texts.items() if hashed in text} <= {"audit"}
    others = sum(
        len(table_of(path)) for path in folder.glob("storage/shop/stages/clean-*/rows/*.parquet")
    )
    assert others == PEOPLE - PEOPLE // 50 - 1
    assert audit.verify(str(folder / "storage"))
    assert [e["rows"] for e in audit.entries(str(folder / "storage")) if e["action"] == "erase"]


def test_a_later_run_does_not_bring_the_person_back(folder, ray_cluster):
    forget.forgotten(job_in(folder), GONE)
    record = pipeline.run(job_in(folder, find="off"), Quiet(), until="clean")
    clean = stage_of(record, "clean")
    assert clean["quarantine"]["erased: this person asked to be forgotten"] == 1
    assert clean["rows_in"] == PEOPLE + 1 == clean["rows_out"] + clean["rows_quarantined"]
    texts = stored_texts(folder / "storage") | stored_texts(folder / "table")
    assert not [path for path, text in texts.items() if GONE in text]


def test_a_killed_erasure_goes_on_and_still_knows_the_bundles(folder, monkeypatch):
    def killed(path, table):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stored, "_rewrite", killed)
        with pytest.raises(KeyboardInterrupt):
            forget.forgotten(job_in(folder), GONE)
    first = forget.forgotten(job_in(folder), GONE)
    again = forget.forgotten(job_in(folder), GONE)
    assert first["rows"] >= 2
    assert again["rows"] == 0
    assert len(first["bundles"]) == 1
    assert again["bundles"] == first["bundles"]


def test_the_commands_say_what_was_done(folder, capsys):
    job = job_in(folder).model_dump(mode="json", exclude_unset=True)
    (folder / "shop.yaml").write_text(json.dumps(job))
    assert cli.main(["forget", str(folder / "shop.yaml"), "--subject", GONE]) == 0
    printed = capsys.readouterr().out
    assert "nothing of this person is left" in printed
    assert "trained on this person, retrain it: " in printed
    assert GONE not in printed
    assert cli.main(["audit", "--storage", str(folder / "storage"), "--verify"]) == 0
    assert "unbroken; head " in capsys.readouterr().out
    log = folder / "storage/audit/log.jsonl"
    log.write_text(log.read_text().replace("shop, stage clean", "shop, stage other"))
    assert cli.main(["audit", "--storage", str(folder / "storage"), "--verify"]) == 2
    assert "was altered" in capsys.readouterr().err


def test_after_a_rotation_a_hashed_person_is_still_found(folder, monkeypatch):
    old = keys.keys()[0].secret.decode()
    monkeypatch.setenv(keys.VARIABLE, f"another-long-secret-now {old}")
    for path in folder.glob("storage/shop/stages/clean-*/rows/*.parquet"):
        table = pq.read_table(path)
        hashed = keys.keys()[1].all_hashed(table["customer_id"].to_pylist())
        index = table.column_names.index("customer_id")
        pq.write_table(table.set_column(index, "customer_id", [hashed]), path)
    hashed_clean = forget.forgotten(job_in(folder, columns={"customer_id": "hash"}), GONE)
    assert hashed_clean["rows"] >= 2


def test_what_cannot_be_erased_is_a_clear_error(folder):
    with pytest.raises(JobError, match="which column tells people apart"):
        forget.forgotten(job_in(folder, subject=None), GONE)


def test_a_person_who_is_not_there_leaves_everything_as_it_was(folder):
    before = {p: p.read_bytes() for p in folder.glob("storage/shop/stages/**/*.parquet")}
    result = forget.forgotten(job_in(folder), "CUST-77777")
    assert (result["rows"], result["bundles"], result["dropped"]) == (0, [], [])
    assert before == {p: p.read_bytes() for p in folder.glob("storage/shop/stages/**/*.parquet")}


def test_an_untreated_find_refuses_before_a_row_is_stored(tmp_path, ray_cluster):
    write_people(tmp_path / "people.csv")
    job = job_in(tmp_path, columns={"name": "mask", "email": "drop"}, on_found="refuse")
    with pytest.raises(GateRefused, match="no treatment") as refused:
        pipeline.run(job, Quiet(), until="clean")
    assert "phone" in str(refused.value)
    assert "555" not in str(refused.value)
    assert not list(tmp_path.glob("storage/shop/stages/clean-*"))


def test_too_few_of_a_kind_refuse(tmp_path, ray_cluster):
    write_people(tmp_path / "people.csv")
    job = job_in(tmp_path, find="off", on_found="refuse", k=1000)
    with pytest.raises(GateRefused, match="hidden among fewer than 1000"):
        pipeline.run(job, Quiet(), until="split")


def stage_of(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stage["record"] for stage in record["stages"] if stage["name"] == name)


def table_of(path: Path) -> Any:
    table = pq.read_table(path)
    assert pc.count(table["customer_id"]).as_py() == len(table)
    return table
