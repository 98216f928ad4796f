"""Jobs of many rows: predicted by other processes, kept as files, and read by their owner alone."""

from __future__ import annotations

import re
import stat
import time
from contextlib import ExitStack

import http_servers
import httpx
import hypothesis
import pytest
import ray
import schemathesis
from upath import UPath

from ray_pipeline.deploy import job_runner
from ray_pipeline.deploy.edge import Edge
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.job_folder import Folder, Job, new_id
from ray_pipeline.deploy.jobs import Jobs
from ray_pipeline.deploy.keyring import described
from ray_pipeline.job import Serve

OTHER = "rp_other"


class Server:
    """Two replicas of an endpoint that takes jobs, and a client of them."""

    def __init__(self, stack, bundle, folder, **settings):
        jobs = {"folder": str(folder), "max_bytes": 2_000_000} | settings.pop("jobs", {})
        self.settings = Serve.model_validate(
            {"max_rows": 100, "cpus": 0.5, "jobs": jobs, **settings}
        )
        self.folder = Folder(folder / "model")
        self.ports = [stack.enter_context(http_servers.running(self.app(bundle))) for _ in "12"]

    def app(self, bundle):
        jobs = Jobs("model", str(bundle.path), self.settings)
        keys = [described("other", OTHER)]
        return http_servers.endpoint(bundle, self.settings, keys, jobs=jobs, started=jobs.start)

    def ask(self, method, path, key=http_servers.KEY, replica=0, **more):
        url = f"http://127.0.0.1:{self.ports[replica]}{path}"
        return httpx.request(method, url, headers={"X-API-Key": key}, timeout=60, **more)

    def send(self, rows, **more):
        answer = self.ask("POST", "/model/jobs", json={"rows": rows}, **more)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/model/jobs/{answer.json()['id']}"
        return answer.headers["location"]

    def ended(self, place, replica=0, seconds=240):
        end = time.monotonic() + seconds
        while True:
            answer = self.ask("GET", place, replica=replica)
            assert answer.status_code == 200, answer.text
            if answer.json()["status"] not in ("waiting", "running"):
                return answer.json()
            assert time.monotonic() < end, answer.text
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server(ray_cluster, classifier, tmp_path_factory):
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("jobs")
        yield Server(stack, classifier.bundle, folder, guard="flag", jobs={"max_jobs": 4})


@pytest.fixture(autouse=True)
def no_jobs_left(request):
    yield
    if "server" in request.fixturenames:
        found = request.getfixturevalue("server")
        for job in list(found.folder.jobs()):
            key = OTHER if job.owner == "key other" else http_servers.KEY
            assert found.ask("DELETE", f"/model/jobs/{job.id}", key=key).status_code == 200


@pytest.fixture(scope="module")
def rows(classifier):
    row = example_row(classifier.bundle)
    return [row | {"age": 17 + number % 80} for number in range(250)]


def test_many_rows_are_predicted_as_few_are(server, rows):
    odd = [*rows[:-1], rows[-1] | {"age": 500}]
    place = server.send(odd)
    done = server.ended(place, replica=1)  # another one than that which took it
    parts = [
        server.ask("POST", "/model/predict", json={"rows": odd[at : at + 100]}).json()
        for at in (0, 100, 200)
    ]
    assert done["status"] == "done"
    assert done["predictions"] == [one for part in parts for one in part["predictions"]]
    assert done["version"] == parts[0]["version"]
    warned = [
        one
        | {"where": re.sub(r"\d+", lambda row, at=at: str(int(row[0]) + at), one["where"], count=1)}
        for at, part in zip((0, 100, 200), parts, strict=True)
        for one in part.get("warnings", ())
    ]
    assert done["warnings"] == warned
    assert "rows[249].age" in [one["where"] for one in warned]
    head = server.ask("HEAD", place)
    assert (head.status_code, head.content) == (200, b"")
    assert not (server.folder.path / done["id"] / "rows").exists()


def test_what_is_wrong_with_a_row_is_told_when_it_is_read(server, rows):
    done = server.ended(server.send([*rows, rows[0] | {"age": "abc"}]))
    assert done["status"] == "failed"
    assert done["error"] == {
        "code": "invalid_request",
        "message": 'expected integer, found "abc"',
        "where": "rows[250].age",
    }


def test_a_job_is_its_owners_alone_and_can_be_stopped(server, rows):
    place = server.send(rows)
    missing = f"/model/jobs/{new_id()}"
    for method in ("GET", "DELETE"):
        answers = [server.ask(method, at, key=OTHER) for at in (place, missing)]
        told = [
            answer.text.replace(at, "")
            for answer, at in zip(answers, (place, missing), strict=True)
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert told[0] == told[1]
    assert server.ask("GET", place, key="rp_wrong").status_code == 403
    assert server.ask("DELETE", place).json()["status"] == "deleted"
    assert server.ask("GET", place).status_code == 404
    assert list(server.folder.jobs()) == []


def test_a_job_goes_on_when_what_runs_it_is_killed(server, rows):
    place = server.send(rows)
    ray.kill(job_runner.runner(), no_restart=False)
    end = time.monotonic() + 240
    while True:  # the actor is made again meanwhile, and calls may fail
        answer = server.ask("GET", place, replica=1)
        if answer.status_code == 200 and answer.json()["status"] == "done":
            break
        assert time.monotonic() < end, answer.text
        time.sleep(0.2)
    assert len(answer.json()["predictions"]) == len(rows)


def test_there_are_no_more_jobs_than_allowed(server, rows):
    for _ in range(4):
        place = server.send(rows[:1])
    answer = server.ask("POST", "/model/jobs", json={"rows": rows[:1]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_jobs")
    assert int(answer.headers["retry-after"]) > 3000
    server.ask("DELETE", place)
    server.send(rows[:1])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/model/jobs", 405),
        ("PUT", "/model/jobs/1", 405),
        ("GET", "/model/jobs/1", 404),
        ("GET", f"/model/jobs/{'0' * 32}", 404),
        ("DELETE", "/model/jobs/..%2f..%2fetc", 404),
    ],
)
def test_other_paths_and_methods(server, method, path, status):
    assert server.ask(method, path).status_code == status


def test_a_body_has_a_bound_and_a_key(server):
    content = b" " * 2_000_001
    assert server.ask("POST", "/model/jobs", content=content).status_code == 413
    assert server.ask("POST", "/model/jobs", key="rp_wrong", content=b"{}").status_code == 403
    assert server.folder.count() == 0


def a_job(**changes):
    now = time.time()
    told = {"owner": "key own", "bundle": "b", "settings": "{}", "content_type": ""}
    return Job(**{"id": new_id(), **told, "created": now, "expires": now + 60, **changes})


def test_what_has_expired_is_gone(tmp_path):
    folder = Folder(tmp_path / "model")
    kept, over = a_job(), a_job(expires=time.time() - 1)
    for job in (kept, over):
        folder.add(job, b"{}")
    assert [job.id for job in folder.jobs()] == [kept.id]
    assert folder.job(over.id) is None
    (tmp_path / "model" / "half").mkdir()
    folder.sweep(unsent_s=60)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {kept.id, "half"}
    folder.sweep(unsent_s=-1)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {kept.id}


def test_nobody_else_reads_what_was_sent(tmp_path):
    folder, job = Folder(tmp_path / "model"), a_job()
    folder.add(job, b'{"rows": []}')
    assert stat.S_IMODE((tmp_path / "model" / job.id).stat().st_mode) == 0o700
    assert folder.rows(job.id) == b'{"rows": []}'


def test_an_answer_to_a_job_that_was_removed_is_not_kept(tmp_path):
    folder, job = Folder(tmp_path / "model"), a_job()
    folder.add(job, b"{}")
    folder.remove(job.id)
    folder.finish(job.id, b"{}")
    assert folder.count() == 0


def test_jobs_on_an_object_store():
    folder, job = Folder(UPath("memory://jobs/model")), a_job()
    folder.add(job, b"{}")
    assert folder.job(job.id) == job
    folder.finish(job.id, b'{"status": "done"}')
    assert folder.answer(job.id).read_bytes() == b'{"status": "done"}'
    folder.remove(job.id)
    assert folder.job(job.id) is None


def test_schemathesis_finds_nothing(server, classifier):
    headers = {"X-API-Key": http_servers.KEY}
    schema = schemathesis.openapi.from_asgi(
        "/model/openapi.json", Edge(server.app(classifier.bundle))
    )
    schema.config.update(headers=headers)
    schema.config.generation.update(with_security_parameters=False)
    statuses = set()
    operations = [
        ("/model/jobs", "POST"),
        ("/model/jobs/{id}", "GET"),
        ("/model/jobs/{id}", "DELETE"),
    ]
    for path, method in operations:

        @hypothesis.settings(
            max_examples=8,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=schema[path][method].as_strategy())
        def check(case):
            response = case.call(headers=headers)
            case.validate_response(response, headers=headers)
            statuses.add(response.status_code)

        check()
    assert statuses == {202, 404, 429}
