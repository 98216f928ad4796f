"""A chatbot whose answers vLLM writes: Ray's own `ray.serve.llm` on Ray Serve, on a node of the
test's cluster that says it has a GPU. vLLM itself is `tests/vllm_standin`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
from pydantic import ValidationError
from servers import waited

from ray_pipeline import cluster, sessions
from ray_pipeline.chat.events import texts
from ray_pipeline.deploy import fast_path
from ray_pipeline.deploy.ports import free_ports
from ray_pipeline.errors import UnavailableError
from ray_pipeline.job import Job
from ray_pipeline.job.chat import Generate

STANDIN = str(Path(__file__).parents[1] / "vllm_standin")
JOB = """
name: dairy
storage: storage
data: {source: pages}
chat:
  encoder: base
  generate:
    by: vllm
    model: maker/writer-1b
    engine: {gpu_memory_utilization: 0.8}
    tokens: 64
    first_s: 12
    within_s: 600
  judge: {confidence: 0.0}
evaluate: {bootstrap: 0}
serve:
  port: PORT
  replicas: {min: 1, max: 1}
  apart: {generator: {gpus: 1, cpus: 1, replicas: {min: 1, max: 2}}}
"""
SENTENCE = "Tea was good with milk."
PAGES = {
    "tea.md": f"# Kitchen\n\n## How is tea made?\n\n{SENTENCE} The food was bad.\n",
    "food.md": "# Food\n\n## Was the taste bad?\n\nThe taste was good.\n",
}
QUESTION = "How is tea made?"
DETAILS = """
import json
from ray.serve.context import _get_global_client
from ray_pipeline import cluster

cluster.connect(start=False)
parts = _get_global_client().get_serve_details()["applications"]["dairy"]["deployments"]
print(json.dumps(parts["generator"]["deployment_config"], default=str))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, site):
    return site.chat_job(tmp_path_factory.mktemp("dairy"), JOB, PAGES)


@pytest.fixture(scope="module")
def engine(tmp_path_factory, site):
    """The folder where the engine says what it does, on a node with a GPU that has joined."""
    with site.at_home():
        running = cluster.record()
    home = tmp_path_factory.mktemp("gpu_node")
    agent, proxy = free_ports(2)
    environment = {
        **site.environment,
        **fast_path.environment(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": running["token"],
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(proxy),
        "RAYLLM_VLLM_ENGINE_CLS": "engine_standin.Engine",
        "ENGINE_TELLS": str(home),
        "PYTHONPATH": os.pathsep.join([STANDIN, os.environ.get("PYTHONPATH", "")]),
    }
    command = [
        *(shutil.which("ray", path=str(Path(sys.executable).parent)), "start"),
        *(f"--address={running['address']}", "--num-cpus=1", "--num-gpus=1"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}"),
        "--disable-usage-stats",
    ]
    with (home / "node.log").open("wb") as log:
        joining = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        assert joining.wait(120) == 0, (home / "node.log").read_text()
    yield home
    sessions.end(joining.pid)


@pytest.fixture(scope="module")
def installed(site, engine):
    """Who deploys has vLLM, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(site.environment, "PYTHONPATH", STANDIN)
        yield engine
        site.called(engine, "remove", "dairy")


@pytest.fixture(scope="module")
def ran(folder, site, installed):
    return site.printed("run", "chat.yaml", "--json", folder=folder)


@pytest.fixture(scope="module")
def client(ran, site):
    return openai.OpenAI(base_url=f"{site.url}/dairy/v1", api_key=site.key, max_retries=0)


def asked(client, question, **more):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="dairy", messages=messages, **more)


def test_a_machine_without_gpus_is_told_before_anything_runs(folder, site):
    for command in ("validate", "run"):
        code, _, told = site.called(folder, command, "chat.yaml")
        assert code == 2
        assert "serve.apart.generator: this machine has 0 GPUs" in told
        assert "expected: 1 for a replica" in told
        assert "--set chat.generate.by=" in told
    assert not (folder / "storage").exists()
    alone = {**site.environment, "RAY_PIPELINE_HOME": str(folder / "nowhere")}
    command = [sys.executable, "-m", "ray_pipeline.cli", "validate", "chat.yaml"]
    done = subprocess.run(
        command, cwd=folder, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "this machine has 0 GPUs" in done.stderr


def test_a_machine_without_vllm_is_told_before_anything_is_deployed(folder, site, engine):
    made = site.printed("run", "chat.yaml", "--until", "export", "--json", folder=folder)
    apart = json.dumps({"generator": {"gpus": 1}})
    deploy = ("deploy", made["bundle"], "--set", f"apart={apart}")
    for command in (("validate", "chat.yaml"), ("run", "chat.yaml"), deploy):
        code, _, told = site.called(folder, *command)
        assert code == 2, told
        assert "chat.generate.by: vllm: vLLM is not installed here" in told
        assert "pip install 'ray-pipeline[vllm]'" in told
    code, _, told = site.called(folder, "deploy", made["bundle"])
    assert code == 2
    assert "serve.apart.generator: the chatbot's language model has no GPU" in told
    assert "dairy" not in site.command(folder, "endpoints")


def test_the_bundle_names_the_model_and_does_not_hold_it(ran):
    bundle = Path(ran["bundle"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["model"] == {"generator": "maker/writer-1b"}
    assert not [name for name in manifest["files"] if "gguf" in name or "safetensors" in name]
    assert "put into words by maker/writer-1b, in vLLM" in (bundle / "README.md").read_text()
    assert "answers" not in ran["metrics"]


def test_vllm_writes_the_answers(client, installed):
    answer = asked(client, QUESTION)
    assert answer.choices[0].message.content == f"{SENTENCE} [1]"
    assert answer.answered_by == "vllm"
    assert answer.sources[0]["title"].endswith(QUESTION)
    chunks = asked(client, QUESTION, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == f"{SENTENCE} [1]"
    request = json.loads((installed / "asked").read_text())
    assert request.pop("request_id") != "made"  # Serve's, which LLMServer puts there
    assert request == {
        "kind": "ChatCompletionRequest",
        "model": None,
        "max_completion_tokens": 64,
        "temperature": 0,
        "stream": True,
    }


def test_ray_is_told_what_the_job_says(ran, installed, site):
    (started,) = installed.glob("started-*")
    assert json.loads(started.read_text()) == {
        "source": "maker/writer-1b",
        "gpus": [{"GPU": 1, "CPU": 1}],
        "tensor_parallel_size": 1,
        "max_model_len": -1,
        "gpu_memory_utilization": 0.8,
    }
    command = [sys.executable, "-W", "ignore", "-c", DETAILS]
    done = subprocess.run(command, env=site.environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    scaling = told["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 2)
    assert scaling["target_ongoing_requests"] == 16
    assert told["max_ongoing_requests"] == 256


@pytest.mark.parametrize("how", ["refused", "broken"])
def test_an_answer_that_fails_is_quoted(client, how):
    answer = asked(client, f"{QUESTION} It is {how}.")
    assert answer.answered_by == "extractive"
    assert SENTENCE in answer.choices[0].message.content


def test_an_answer_that_is_late_is_quoted_and_ended(client, installed):
    (installed / "ended").unlink(missing_ok=True)
    answer = asked(client, f"{QUESTION} It is endless.")
    assert answer.answered_by == "extractive"
    waited((installed / "ended").exists, 60)


def test_who_goes_away_ends_the_writing(client, installed):
    (installed / "ended").unlink(missing_ok=True)
    with asked(client, f"{QUESTION} It is unfinished.", stream=True) as chunks:
        said = next(text for c in chunks if (text := c.choices[0].delta.content))
    assert said.startswith("Tea was good")
    waited((installed / "ended").exists, 60)


def test_another_version_takes_over_where_no_gpu_is_free(client, folder, site, installed):
    (folder / "pages" / "more.md").write_text("# More\n\n## Is there more?\n\nThere is milk.\n")
    again = site.printed("run", "chat.yaml", "--json", folder=folder)
    answer = asked(client, QUESTION)
    assert answer.system_fingerprint == again["bundle"].rpartition("/")[2]
    assert answer.answered_by == "vllm"
    assert len(list(installed.glob("started-*"))) == 2


def test_its_model_is_asked_at_the_endpoint_alone(ran, folder, site):
    code, _, told = site.called(folder, "chat", "chat.yaml")
    assert code == 1
    assert "maker/writer-1b has replicas at the endpoint alone" in told


async def pieces_of(*batches):
    async def yielded():
        for batch in batches:
            yield batch

    return [piece async for piece in texts(yielded())]


def event(**chunk):
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def said(text):
    return event(choices=[{"delta": {"content": text}}])


def test_events_become_texts():
    lines = "a\u2028b\r"  # characters at which Python, but not the protocol, divides lines
    batches = (
        [event(choices=[{"delta": {"role": "assistant", "content": ""}}])],
        [said("Tea"), said(lines)],
        said(" was") + said(" good"),
        [event(choices=[{"delta": {"reasoning": "hm"}}]), event(choices=[]), "data: [DONE]\n\n"],
    )
    assert asyncio.run(pieces_of(*batches)) == ["Tea", lines, " was", " good"]
    failed = SimpleNamespace(error=SimpleNamespace(message="it is too long"))
    for last in (failed, [failed], [event(error={"message": "it is too long"})]):
        with pytest.raises(UnavailableError, match="the language model: it is too long"):
            asyncio.run(pieces_of([said("Tea")], last))


def refused(chat, **serve):
    job = {"name": "dairy", "data": {"source": "pages"}, "chat": {"encoder": "base", **chat}}
    with pytest.raises(ValidationError) as error:
        Job.model_validate({**job, "serve": serve})
    return str(error.value)


def test_what_does_not_go_together_is_refused():
    by = {"generate": {"by": "vllm", "model": "maker/writer-1b"}}
    for generator in ({}, {"gpus": 0.5}, {"gpus": 1.5}):
        assert "whole GPUs" in refused(by, apart={"generator": generator})
    assert "whole GPUs" in refused(by)
    for judge in ({"answers": 3}, {"attacks": "attacks.jsonl"}):
        told = refused({**by, "judge": judge}, apart={"generator": {"gpus": 1}})
        assert f"judge.{next(iter(judge))}: `vllm` has no replica" in told
    with pytest.raises(ValidationError, match="`vllm` needs `model`"):
        Generate(by="vllm")
    with pytest.raises(ValidationError, match="`engine` is for `vllm`, and not for `llama`"):
        Generate(by="llama", model="a.gguf", engine={"max_model_len": 1})
    with pytest.raises(ValidationError, match=r"engine\.tensor_parallel_size"):
        Generate(by="vllm", model="a", engine={"tensor_parallel_size": 2})
