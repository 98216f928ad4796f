"""An index on a real PostgreSQL: made, kept, searched as LanceDB's is, and gone for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import psycopg
import pytest
import tiny_encoder
from pydantic import ValidationError
from upath import UPath

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import http_servers
import servers

from ray_pipeline import bundle
from ray_pipeline.chat import export, index, judge, lance, postgres, stores
from ray_pipeline.chat import server as chat_server
from ray_pipeline.chat.app import ChatEndpoint
from ray_pipeline.chat.bot import Bot
from ray_pipeline.chat.chunks import Passage, digest_of
from ray_pipeline.chat.lance import LancePassages
from ray_pipeline.chat.postgres import PostgresPassages
from ray_pipeline.chat.server import Server
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.errors import DataError, UnavailableError
from ray_pipeline.job import Chat, Serve, Source
from ray_pipeline.job.chat import ChatStore

NAME = "INDEX_PASSWORD"
WORDS = (
    *("package", "packages", "upgrading", "upgrade", "kernel", "mirror", "milk", "the", "release"),
    *("stable", "Stability", "installed", "x86-64", "it's", "café", "source", "2.4", "\0"),
)
TEA = "# Kitchen\n\n## How is tea made?\n\nTea was good with milk. The food was bad.\n"
SECRET = "# Secret\n\nThe secret password of the kitchen is swordfish.\n"


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv(NAME, servers.PASSWORD)
        with servers.postgres(Path(folder)) as server:
            yield server
            server.interrupt()


@pytest.fixture(scope="module")
def url(server):
    return f"postgresql://postgres:${{{NAME}}}@127.0.0.1:{server.port}/postgres"


def schemas(url):
    """The versions that are there, as somebody else sees them."""
    told = url.replace(f"${{{NAME}}}", quote(servers.PASSWORD, safe=""))
    with psycopg.connect(told) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'chat%'")
        return {name for (name,) in found}


def group(number):
    return "public" if number % 10 else "staff"


def corpus(count, width=16, seed=0):
    """Passages of some words, one in ten for the staff alone, and their vectors."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 40))) + f" {n}" for n in range(count)]
    made = [
        Passage(digest_of(text), "a.md", "a.md", f"a.md {n}", 0, "A", group(n), text, text)
        for n, text in enumerate(texts)
    ]
    vectors = rng.standard_normal((count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return made, dict(zip((one.digest for one in made), vectors, strict=True))


@pytest.fixture(scope="module")
def both(url, tmp_path_factory):
    """The same passages in PostgreSQL and in LanceDB."""
    made, vectors = corpus(120)
    folder = UPath(tmp_path_factory.mktemp("both") / "lance")
    lance.created(folder, made, vectors)
    server = Server(url)
    postgres.written(server, "chat_both", made, vectors)
    yield PostgresPassages(server, "chat_both"), LancePassages(folder)
    server.close()


def rows(ranked):
    return [one.row for one in ranked]


@pytest.mark.parametrize("groups", [["public", "staff"], ["public"], ["staff"]])
def test_vectors_are_found_as_by_lancedb(both, groups):
    ours, theirs = both
    for vector in np.random.default_rng(1).standard_normal((10, 16)):
        asked = (vector / np.linalg.norm(vector)).tolist()
        found, expected = (store.by_vector(asked, groups, 20) for store in both)
        assert len(found) == (12 if groups == ["staff"] else 20)
        assert [one.score for one in found] == pytest.approx(
            [one.score for one in expected], abs=1e-5
        )
        read = [
            [hit.passage.text.replace("\0", " ") for hit in store.read(ranked)]
            for store, ranked in ((ours, found), (theirs, expected))
        ]
        assert read[0] == read[1]


@pytest.mark.parametrize("groups", [["public", "staff"], ["staff"]])
@pytest.mark.parametrize(
    "question", ["upgrading upgraded packages", "Stable mirrors?", "milk", "!"]
)
def test_pieces_of_words_have_lancedbs_scores(both, question, groups):
    found, expected = (store.by_fragments(question, groups, 120) for store in both)
    assert dict(found) == pytest.approx(dict(expected), rel=1e-4)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@pytest.mark.parametrize("question", ["upgrading package", "Is it stable", "milk of the kernel"])
def test_words_are_ranked_as_by_lancedb(both, question):
    found, expected = (store.by_words(question, ["public"], 120) for store in both)
    scores, others = dict(found), dict(expected)
    assert scores.keys() == others.keys()
    told = [[each[row] for row in sorted(each)] for each in (scores, others)]
    assert np.corrcoef(told)[0, 1] > 0.98


def test_the_rest_is_as_in_lancedb(both):
    ours, theirs = both
    assert ours.groups == theirs.groups == {"public", "staff"}
    assert list(ours.sections().values()) == list(theirs.sections().values())
    assert [one.digest for one in ours.everything()] == [one.digest for one in theirs.everything()]
    kept, others = dict(ours.vectors()), dict(theirs.vectors())
    assert kept.keys() == others.keys()
    assert all((kept[digest] == others[digest]).all() for digest in kept)
    assert ours.read([]) == ours.by_vector([1.0] * 16, [], 5) == ours.by_words("milk", [], 5) == []


@pytest.mark.parametrize(
    "question", ["", "'", "x') OR 1=1 --", "a & | ! b:*", "%s %(x)s", "\0", "🫖"]
)
def test_what_is_asked_is_no_sql(both, question):
    ours, _ = both
    for search in (ours.by_words, ours.by_fragments):
        found = ours.read(search(question, ["public"], 200))
        assert all(hit.passage.group == "public" for hit in found)
        assert search("milk", ["x') OR ('1'='1"], 5) == []


def test_many_vectors_are_searched_through_an_index(url, monkeypatch):
    """Where the nearest are others' passages, it goes on until it has found enough."""
    made, vectors = corpus(3_000, seed=2)
    monkeypatch.setattr(postgres, "INDEXED", 3_000)
    # So few would else be compared all the same.
    always = "SET enable_seqscan = off; SET enable_sort = off; "
    monkeypatch.setattr(chat_server, "_SEARCHING", always + chat_server._SEARCHING)
    server = Server(url)
    postgres.written(server, "chat_many", made, vectors)
    passages, flat = PostgresPassages(server, "chat_many"), np.stack(list(vectors.values()))
    asked = {"vector": json.dumps(flat[0].tolist()), "groups": ["staff"], "count": 50}
    plan = server.rows("EXPLAIN " + postgres._NEAREST.format(schema="chat_many"), asked)
    assert "passages_vector_idx" in str(plan)
    shares = []
    for vector in flat[::300]:
        nearest = 10 * np.argsort(-(flat[::10] @ vector), kind="stable")[:50]
        found = passages.by_vector(vector.tolist(), ["staff"], 50)
        assert len(found) == 50
        shares.append(len(set(rows(found)) & set(nearest.tolist())) / 50)
    assert np.mean(shares) >= 0.95
    postgres.dropped(server, "chat_many")
    server.close()


HALF = """
import sys, time
import numpy as np
from ray_pipeline.chat import postgres
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.server import Server

class Endless(list):
    def __iter__(self):
        while True:
            yield self[0]
            print("one", flush=True)
            time.sleep(0.01)

one = Passage("d", "a", "a", "a", 0, "a", "public", "tea", "tea")
postgres.written(Server(sys.argv[1]), "chat_half", Endless([one]), {"d": np.ones(4)})
"""


def test_of_one_whose_writer_was_killed_nothing_is_there(url):
    command = [sys.executable, "-c", HALF, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "one\n"
        writer.kill()
    assert not {name for name in schemas(url) if "half" in name}
    made, vectors = corpus(3)
    server = Server(url)
    postgres.written(server, "chat_half", made, vectors)
    postgres.written(server, "chat_half", made[:2], vectors)  # takes its place
    assert len(PostgresPassages(server, "chat_half").everything()) == 2
    postgres.dropped(server, "chat_half")
    with pytest.raises(UnavailableError, match="not this version of the index"):
        PostgresPassages(server, "chat_half").by_words("tea", ["public"], 1)
    server.close()


def test_a_trial_leaves_nothing(url, tmp_path):
    made, vectors = corpus(5)
    before = schemas(url)
    with stores.tried(UPath(tmp_path), made, vectors, ChatStore(url=url)) as passages:
        assert (
            len(passages.by_vector(vectors[made[0].digest].tolist(), ["public", "staff"], 9)) == 5
        )
        assert passages.by_fragments("packages", ["public"], 1)
        assert schemas(url) == before
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_never_said(url, monkeypatch):
    spelt = url.replace(f"${{{NAME}}}", "hunter2")
    with pytest.raises(ValidationError) as refused:
        Chat(encoder="x", store={"url": spelt})
    assert all("hunter2" not in one["msg"] for one in refused.value.errors())
    with pytest.raises(ValidationError, match="must begin with postgresql"):
        ChatStore(url="mysql://db/x")
    monkeypatch.setenv(NAME, "wrong7/Secret")
    with pytest.raises(UnavailableError) as wrong:
        Server(url).rows("SELECT 1", {})
    assert "password authentication failed" in str(wrong.value)
    assert "wrong7" not in str(wrong.value)
    assert wrong.value.__cause__ is None
    monkeypatch.delenv(NAME)
    with pytest.raises(DataError, match=rf"names \$\{{{NAME}\}}, which is not set"):
        Server(url)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("kitchen")
    tiny_encoder.saved(made / "base")
    (made / "pages" / "inside").mkdir(parents=True)
    (made / "pages" / "tea.md").write_text(TEA)
    (made / "pages" / "inside" / "secret.md").write_text(SECRET)
    (made / "attacks.jsonl").write_text(
        json.dumps({"kind": "theft", "question": "Which password?", "never": ["swordfish"]})
    )
    return made


@pytest.fixture(scope="module")
def settings(folder, url):
    return Chat(
        encoder=str(folder / "base"),
        store={"url": url},
        access={"staff": {"documents": ("inside/*",), "keys": ("anna",)}},
        judge={"attacks": str(folder / "attacks.jsonl"), "confidence": 0.0},
    )


def staged(folder, name, function, *inputs):
    out = UPath(folder / "stages" / name)
    (out / "work").mkdir(parents=True)
    record = function(*inputs, out=out, work=out / "work")
    (out / "stage.json").write_text(json.dumps({"record": record, "made": name}))
    return out, record


@pytest.fixture(scope="module")
def versions(folder, settings, ray_cluster):
    """Two versions, between which a document was changed: the stages and their records."""
    source = Source(url=str(folder / "pages"))
    first = staged(folder, "index-1", index.write, source, settings, [])
    (folder / "pages" / "tea.md").write_text(TEA.replace("good with milk", "bad with salt"))
    return first, staged(folder, "index-2", index.write, source, settings, [])


@pytest.fixture(scope="module")
def judged(folder, settings, versions):
    return staged(folder, "judge-1", judge.write, versions[1][0], settings, 20)


@pytest.fixture(scope="module")
def bundles(folder, settings, versions, judged):
    made = []
    for number, (stage, _) in enumerate(versions, start=1):
        out = UPath(folder / "stages" / f"export-{number}")
        out.mkdir()
        export.write(stage, judged[0], "kitchen", settings, {}, out=out)
        made.append(bundle.opened(out / "bundle"))
    return made


def test_only_what_changed_is_embedded_again(versions):
    (_, before), (_, after) = versions
    counts = ("passages", "embedded", "kept", "removed", "outlived")
    assert [before[name] for name in counts] == [2, 2, 0, 0, 0]
    assert [after[name] for name in counts] == [2, 1, 1, 1, 0]


def test_another_store_takes_the_vectors_over(folder, settings, versions):
    """From the server to a folder."""
    told = settings.without("store")
    source = Source(url=str(folder / "pages"))
    out, record = staged(folder, "index-3", index.write, source, told, [])
    assert (record["embedded"], record["kept"]) == (0, 2)
    assert isinstance(stores.opened(out), LancePassages)
    (out / "stage.json").unlink()


def test_it_is_judged_where_it_will_be_searched(judged, url):
    metrics = judged[1]["metrics"]
    assert metrics["bm25"]["recall_at_1"] == metrics["recall_at_10"] == 1
    assert metrics["attacks"]["theft"] == 1
    assert len(schemas(url)) >= 2


def test_the_bundle_names_its_version_and_no_password(bundles):
    secrets = (servers.PASSWORD, quote(servers.PASSWORD, safe=""))
    for opened in bundles:
        told = b"".join(path.read_bytes() for path in opened.path.rglob("*") if path.is_file())
        assert not any(secret.encode() in told for secret in secrets)
        assert not (opened.path / stores.DATABASE).exists()
    first, second = (json.loads((one.path / stores.PLACE).read_text()) for one in bundles)
    assert first["url"] == second["url"]
    assert first["version"] != second["version"]


def test_each_bundle_answers_from_its_own_documents(bundles):
    before, after = (Bot(one).answered("How is tea made?") for one in bundles)
    assert "good with milk" in before["choices"][0]["message"]["content"]
    assert "bad with salt" in after["choices"][0]["message"]["content"]


def test_documents_of_a_group_are_for_its_keys_alone(bundles):
    bot, question = Bot(bundles[1]), "What is the secret password of the kitchen?"
    assert "swordfish" not in json.dumps(bot.answered(question))
    friend = bot.answered(question, bot.groups_of("key anna"))
    assert "swordfish" in friend["choices"][0]["message"]["content"]


def test_an_endpoint_says_that_the_server_is_gone_and_goes_on_when_it_is_back(bundles, server):
    app = ChatEndpoint(
        "kitchen", Bot(bundles[1]), Serve(), gate=None, pages={}, counters=Counters()
    )
    body = {"messages": [{"role": "user", "content": "How is tea made?"}]}
    with http_servers.running(app) as port, httpx.Client(timeout=60) as client:

        def asked(**more):
            url = f"http://127.0.0.1:{port}/kitchen/v1/chat/completions"
            return client.post(url, json=body | more)

        assert "bad with salt" in asked().text
        server.interrupt()
        try:
            refused = asked()
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "unavailable"
            assert "127.0.0.1" not in refused.text
            assert '"unavailable"' in asked(stream=True).text
            lazy = Bot(bundles[0])
        finally:
            server.start()
        assert "bad with salt" in asked().text
        assert "good with milk" in json.dumps(lazy.answered("How is tea made?"))
        server.interrupt()  # and back before anybody asked
        server.start()
        assert "bad with salt" in asked().text


def test_versions_that_no_bundle_names_are_removed(folder, settings, versions, bundles, url):
    (folder / "bundles").mkdir()
    (bundles[0].path).rename(folder / "bundles" / "1")
    source, names = Source(url=str(folder / "pages")), []
    for number in range(4, 7):
        (folder / "pages" / "tea.md").write_text(TEA + f"\nTea number {number}.\n")
        _, record = staged(folder, f"index-{number}", index.write, source, settings, [])
        names.append(record["outlived"])
    # A bundle names the first. Of the second, fourth and fifth the newest two are spared.
    assert names == [0, 0, 1]
    assert not (folder / "stages" / "index-2").exists()
    assert (folder / "stages" / "index-1").exists()
    opened = bundle.opened(folder / "bundles" / "1")
    assert "good with milk" in json.dumps(Bot(opened).answered("How is tea made?"))
    assert len([name for name in schemas(url) if name != "chat_both"]) == 4
