"""One job, from documents in a folder to a chatbot that answers on Ray Serve."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import openai
import pytest

JOB = """
name: kitchen
storage: storage
data: {source: pages}
chat:
  encoder: base
  examples: ["How is tea made?"]
  judge: {confidence: 0.0}
  feedback: true
evaluate: {bootstrap: 20, gates: {recall_at_10: {min: 0.5}}}
serve: {port: PORT, cpus: 0.2, replicas: {min: 1, max: 1}}
"""
PAGES = {
    "tea.md": "# Kitchen\n\n## How is tea made?\n\nTea was good with milk. The food was bad.\n",
    "food.html": "<h1>Food</h1><h2>Was the taste bad?</h2><p>The taste was good.</p>",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, site):
    return site.chat_job(tmp_path_factory.mktemp("kitchen"), JOB, PAGES)


@pytest.fixture(scope="module")
def ran(folder, site):
    return site.printed("run", "chat.yaml", "--json", folder=folder)


@pytest.fixture(scope="module")
def client(ran, site):
    return openai.OpenAI(base_url=f"{site.url}/v1", api_key=site.key, max_retries=0)


MESSAGES = [{"role": "user", "content": "How is tea made?"}]


def test_one_command_goes_from_documents_to_an_answer(ran):
    assert [stage["name"] for stage in ran["stages"]] == ["index", "judge", "export", "deploy"]
    assert ran["stages"][0]["rows_out"] == 2
    for way in ("hybrid", "bm25", "vectors"):
        assert 0 <= ran["metrics"][way]["recall@5"] <= 1
    assert ran["endpoint"].endswith("/kitchen/v1/chat/completions")
    report = Path(ran["report"]).read_text()
    assert "What is found" in report
    assert "The index" in report


def test_openais_client_asks_the_server_by_the_models_name(client, ran, site):
    assert "kitchen" in [model.id for model in client.models.list()]
    answer = client.chat.completions.create(model="kitchen", messages=MESSAGES)
    assert "Tea was good with milk. [1]" in answer.choices[0].message.content
    assert answer.system_fingerprint == ran["bundle"].rpartition("/")[2]
    chunks = client.chat.completions.create(model="kitchen", messages=MESSAGES, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(parts) == answer.choices[0].message.content
    direct = openai.OpenAI(base_url=f"{site.url}/kitchen/v1", api_key=site.key, max_retries=0)
    same = direct.chat.completions.create(model="kitchen", messages=MESSAGES)
    assert same.choices[0].message.content == answer.choices[0].message.content


def test_the_front_refuses_what_is_no_chatbot(client, site):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    stranger = openai.OpenAI(base_url=f"{site.url}/v1", api_key="rp_wrong", max_retries=0)
    for more in ({}, {"stream": True}):
        with pytest.raises(openai.PermissionDeniedError):
            stranger.chat.completions.create(model="kitchen", messages=MESSAGES, **more)
    assert httpx.post(f"{site.url}/v2/models/kitchen/infer", json={}).status_code == 404
    assert httpx.get(f"{site.url}/kitchen/").status_code == 200


def test_a_second_run_has_nothing_to_do(ran, folder, site):
    again = site.printed("run", "chat.yaml", "--json", folder=folder)
    assert all(stage["cached"] for stage in again["stages"])
    assert again["bundle"] == ran["bundle"]
    told = site.command(folder, "run", "chat.yaml", "--until", "export", "--json")
    assert json.loads(told.splitlines()[-1])["bundle"] == ran["bundle"]


def test_its_prompts_become_transcripts_to_learn_from(ran, folder, site):
    pair = {"question": "How is tea made?", "answer": "With milk.", "chapter": "passed over"}
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    told = site.printed("chat", "chat.yaml", "--transcripts", "pairs.jsonl", folder=folder)
    assert told["question"] == pair["question"]
    rules, asked, said = json.loads(told["messages"])
    assert rules["role"] == "system"
    assert "Tea was good with milk." in asked["content"]
    assert asked["content"].endswith("Question: How is tea made?")
    assert said == {"role": "assistant", "content": "With milk."}
    (folder / "pairs.jsonl").write_text('{"question": "Why?"}\n')
    code, _, err = site.called(folder, "chat", "chat.yaml", "--transcripts", "pairs.jsonl")
    assert code == 2
    assert "pairs.jsonl, line 1: answer: Field required" in err


def test_a_wrong_answer_that_is_corrected_is_right_after_the_next_run(ran, client, folder, site):
    told = {"question": "How is tea made?", "good": False, "answer": "Tea is made with hot milk."}
    wrong = {"question": "Was the food good?", "good": False}
    for body in (told, wrong):
        posted = httpx.post(
            f"{site.url}/kitchen/feedback", json=body, headers={"X-API-Key": site.key}
        )
        assert posted.status_code == 202, posted.text
    again = site.printed("run", "chat.yaml", "--json", folder=folder)
    assert again["bundle"] != ran["bundle"]
    assert wrong["question"] in Path(again["report"]).read_text()
    answer = client.chat.completions.create(model="kitchen", messages=MESSAGES)
    assert answer.choices[0].message.content == "Tea is made with hot milk. [1]"
    assert answer.sources[0]["title"] == told["question"]
