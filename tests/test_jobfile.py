"""The job file: what is accepted, and that every mistake is named with its place."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from ray_pipeline import jobfile
from ray_pipeline.errors import JobError

REPOSITORY = Path(__file__).parents[1]
SMALL = """\
name: small
data:
  source: rows.csv
  label: y
"""


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return write


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(JobError) as caught:
        jobfile.read(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_paths_start_at_the_job_file(written):
    path = written(SMALL)
    job = jobfile.read(path)
    assert job.data.source.url == str(path.parent / "rows.csv")
    assert job.storage == str(path.parent / "storage")


def test_the_files_of_a_chatbot_start_at_the_job_file():
    jobs = REPOSITORY / "jobs"
    chat = jobfile.read(jobs / "support.yaml").chat
    judge, said = chat.judge, chat.intents.examples
    for path in (judge.unanswerable, judge.paraphrases, judge.attacks, said):
        assert Path(path).parent == jobs
        assert Path(path).is_file()


def test_a_language_model_is_a_folder_or_a_name(written):
    chat = """
name: a
data: {source: pages}
chat: {encoder: base, generate: {by: vllm, model: MODEL}}
serve: {apart: {generator: {gpus: 1}}}
"""
    path = written(chat.replace("MODEL", "bundle/model"))
    (path.parent / "bundle" / "model").mkdir(parents=True)
    assert jobfile.read(path).chat.generate.model == str(path.parent / "bundle" / "model")
    for elsewhere in ("maker/writer-1b", "s3://models/writer-1b"):
        path = written(chat.replace("MODEL", elsewhere))
        assert jobfile.read(path).chat.generate.model == elsewhere


def test_addresses_are_left_alone(written):
    job = jobfile.read(written("storage: s3://bucket/runs\n" + SMALL))
    assert job.storage == "s3://bucket/runs"


def test_overrides_are_typed_like_the_file(written):
    job = jobfile.read(
        written(SMALL), ["train.learning_rate=3e-4", "data.missing=['?', NA]", "tune=null"]
    )
    assert job.train.learning_rate == 3e-4
    assert job.data.missing == ("?", "NA")
    assert job.tune is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALL + "trian: {}\n", "line 5: unknown key `trian`; did you mean `train`?"),
        (SMALL + "  lable: y\n", "line 5: unknown key `data.lable`; did you mean `label`?"),
        (
            SMALL + "  columns:\n    a: {kind: number, rol: label}\n",
            "line 6: unknown key `data.columns.a.rol`; did you mean `role`?",
        ),
        (SMALL + "  columns: {a: intger}\n", "line 5: `data.columns.a`: "),
        (SMALL + "train: {epochs: many}\n", "line 5: `train.epochs`: "),
        (SMALL + "train: {epochs: 0}\n", "line 5: `train.epochs`: "),
        (SMALL + "train: {epochs: '20'}\n", "line 5: `train.epochs`: "),
        (SMALL + "train: {workers: -1}\n", "must be 0 or more, or auto (found -1)"),
        (SMALL + "serve: {replicas: {min: 3, max: 2}}\n", "`serve.replicas`: min is above max"),
        (SMALL + "  header: false\n", "`data`: a file without a header needs `columns`"),
        (SMALL + "  split: {validation: 0.6, test: 0.4}\n", "leave no rows to train on"),
        (SMALL + "tune: {space: {train.lr: {choice: [1]}}}\n", "these can: model.name"),
        (SMALL + "tune: {space: {model.width: {uniform: [2, 1]}}}\n", "must be below the second"),
        (SMALL + "tune: {space: {model.width: {choice: [1], integer: [1, 2]}}}\n", "exactly one"),
        (SMALL + "evaluate: {gates: {accuracy: {}}}\n", "give min, max or both"),
        ("name: small\n", "`data` is required"),
        (SMALL.replace("small", "v2"), "is a path of our own"),
        (SMALL.replace("small", "Not A Name"), "line 1: `name`: "),
        (SMALL + "name: again\n", "line 5: `name` stands twice\n  do: the first is on line 1"),
    ],
)
def test_mistakes_are_named_with_their_place(written, text, expected):
    if expected.startswith("line 5: `name` stands twice"):
        message = complaint(written(text))
        assert "line 5: `name` stands twice" in message
        assert "the first is on line 1" in message
    else:
        assert expected in complaint(written(text))


def test_every_mistake_is_told_at_once(written):
    message = complaint(written(SMALL + "trian: {}\nserve: {port: 0}\n"))
    assert "trian" in message
    assert "serve.port" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "not YAML"),
        ("", "holds no settings"),
        ("- a\n- b\n", "holds no settings"),
    ],
)
def test_what_is_no_job_file(written, text, expected):
    assert expected in complaint(written(text))


def test_a_file_that_is_not_there(tmp_path):
    message = complaint(tmp_path / "no.yaml")
    assert "no.yaml: cannot be read: No such file" in message
    assert "ray-pipeline init" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "not an assignment"),
        ("name.first=x", "`name` is a value, not a section"),
        ("train.epoch=3", "did you mean `epochs`?"),
        ("train.epochs=[", "the value is not YAML"),
    ],
)
def test_wrong_overrides(written, override, expected):
    assert expected in complaint(written(SMALL), override)


def test_a_job_is_frozen(written):
    job = jobfile.read(written(SMALL))
    with pytest.raises(ValueError, match="frozen"):
        job.train.epochs = 3


def test_the_schema_accepts_the_jobs_that_come_with_it():
    schema = jobfile.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    paths = sorted((REPOSITORY / "jobs").glob("*.yaml"))
    assert paths
    for path in paths:
        raw = yaml.load(path.read_text(), Loader=jobfile.Loader)
        jsonschema.validate(json.loads(json.dumps(raw)), schema)
        assert jobfile.read(path).name


def test_the_schema_refuses_what_reading_refuses(written):
    raw = yaml.safe_load(SMALL) | {"trian": {}}
    with pytest.raises(jsonschema.ValidationError, match="trian"):
        jsonschema.validate(json.loads(json.dumps(raw)), jobfile.json_schema())


def test_every_setting_of_a_section_without_its_own_name_is_described():
    """A key whose name says all needs no text; a section's key without a default does."""
    data = jobfile.json_schema()["$defs"]["Data"]["properties"]
    assert all(data[key].get("description") for key in ("source", "test", "label", "columns"))


def test_a_pattern_of_pruning_needs_no_quotes(written):
    """YAML reads 2:4 as minutes and seconds."""
    job = jobfile.read(written(SMALL + "compress: {prune: {pattern: 2:4}}\n"))
    assert job.compress.prune is not None
    assert job.compress.prune.pattern == "2:4"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("prune: {pattern: 2:4, share: 0.7}", "keeps half of the weights"),
        ("distill: {model: {widht: 8}}", "widht"),
        ("distill: {model: {}}", "compress.distill.model"),
    ],
)
def test_mistakes_in_what_is_trained_smaller(written, section, expected):
    assert expected in complaint(written(SMALL + f"compress: {{{section}}}\n"))
