"""Are documents indexed as fast as by a loop, and how long does a search take as they grow?

Index: passages of Debian's manuals (`python jobs/fetch.py manuals minilm`), one document each,
become an index by the stage that jobs use, on a Ray cluster that is already up; and by a loop in
one process with as many threads, which reads, embeds and stores the same. What two documents take,
which is the start of the actors or next to nothing, is taken off both.

Retrieval: passages of made-up words and vectors around made-up topics, as many as `--passages`
says, are searched by meaning and by pieces of words, one question after the other.

Reranking: passages of 240 made-up words, each a token, as 180 words of English have, and a question
of 16 are read by a network of MiniLM-L6's shape, whose weights are random: they do not change how
long it takes. That is told in time of a core, of which one is used.

    python benchmarks/chat.py [--json] [--documents 1000] [--passages 10000 100000] [--rerank 20]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from _common import finish, start_ray
from embeddings import JOBS, by_loop
from upath import UPath

WIDTH, TOPICS, WORDS, QUESTIONS = 384, 1000, 50_000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--documents", type=int, default=1000, help="0: no index is made")
    parser.add_argument("--passages", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--rerank", type=int, default=20, help="passages that are reranked; or 0")
    arguments = parser.parse_args()
    rows, ratios, figures = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.documents:
            rates = indexed(Path(folder), arguments.documents)
            rows += [{"what": f"index, {way}", "passages_per_s": r} for way, r in rates.items()]
            ratios["index ours/loop"] = rates["ours"] / rates["loop"]
            figures["passages_per_s"] = rates
        for count in arguments.passages:
            p50, p95 = searched(UPath(folder) / f"searched-{count}", count)
            rows.append({"what": f"search of {count:,}", "p50_ms": p50, "p95_ms": p95})
            figures[f"search_{count}_ms"] = {"p50": p50, "p95": p95}
        if arguments.rerank:
            p50, p95 = reranked(Path(folder) / "reranker", arguments.rerank)
            rows.append({"what": f"reranking of {arguments.rerank}", "p50_ms": p50, "p95_ms": p95})
            figures[f"rerank_{arguments.rerank}_ms"] = {"p50": p50, "p95": p95}
    finish(
        "chat", rows, ratios, figures, arguments.json, packages=("ray", "onnxruntime", "lancedb")
    )


def indexed(folder: Path, count: int) -> dict[str, float]:
    """Passages in a second by each way."""
    import ray

    cpus = len(os.sched_getaffinity(0))
    start_ray(num_cpus=cpus)
    few, many = written(folder / "few", 2), written(folder / "many", count)
    ways = {"ours": by_stage(folder), "loop": by_hand(folder, cpus)}
    rates = {}
    for name, way in ways.items():
        start, (passages, seconds) = way(few)[1], way(many)
        rates[name] = passages / (seconds - start)
    ray.shutdown()
    return rates


def written(folder: Path, count: int) -> Path:
    """A document in Markdown for each of the first passages of the manuals."""
    folder.mkdir()
    lines = (JOBS / "manuals" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    for number, line in enumerate(lines):
        row = json.loads(line)
        text = f"# {row['heading']}\n\n{row['passage']}\n"
        (folder / f"{number:05}.md").write_text(text, encoding="utf-8")
    return folder


def by_stage(folder: Path):
    from ray_pipeline.chat import index
    from ray_pipeline.job import Chat, Source

    def timed(pages: Path) -> tuple[int, float]:
        out = UPath(folder / f"ours-{pages.name}")
        (out / "work").mkdir(parents=True)
        settings, begun = Chat(encoder=str(JOBS / "minilm")), time.monotonic()
        made = index.write(Source(url=str(pages)), settings, [], out=out, work=out / "work")
        return made["passages"], time.monotonic() - begun

    return timed


def by_hand(folder: Path, threads: int):
    """What one would write: no headings above a heading, no masks, no overlap, no records."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import FTS

    from ray_pipeline.chat import index
    from ray_pipeline.chat.words import fragments
    from ray_pipeline.job import Chat

    embed = by_loop(index.encoder_of(Chat(encoder=str(JOBS / "minilm"))), threads)

    def timed(pages: Path) -> tuple[int, float]:
        begun = time.monotonic()
        texts = []
        for path in sorted(pages.iterdir()):
            title, _, body = path.read_text(encoding="utf-8").partition("\n\n")
            words = body.split()
            texts += [
                f"{title[2:]}\n{' '.join(words[start : start + 180])}"
                for start in range(0, len(words), 180)
            ]
        vectors = embed(pa.array(texts))[1]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        rows = {"text": texts, "pieces": [fragments(text) for text in texts], "vector": flat}
        base = lancedb.connect(folder / f"loop-{pages.name}")
        table = base.create_table("passages", pa.table(rows))
        table.create_index("text", config=FTS())
        table.create_index("pieces", config=FTS(base_tokenizer="whitespace", stem=False))
        return len(texts), time.monotonic() - begun

    return timed


def searched(folder: UPath, count: int) -> tuple[float, float]:
    """Milliseconds of a search among so many passages, p50 and p95."""
    from ray_pipeline.chat import stores
    from ray_pipeline.chat.chunks import Passage
    from ray_pipeline.chat.retriever import Retriever
    from ray_pipeline.job.chat import PUBLIC, Retrieve

    rng = np.random.default_rng(0)
    topics = rng.standard_normal((TOPICS, WIDTH)).astype(np.float32)
    texts, vectors = made_up(rng, topics, count, 60)
    passages = [
        Passage(str(n), "a.md", "a.md", str(n), 0, "", PUBLIC, text, text)
        for n, text in enumerate(texts)
    ]
    stores.written(folder, passages, {str(n): vector for n, vector in enumerate(vectors)})
    retriever = Retriever(stores.opened(folder), lambda asked: asked, Retrieve())
    questions = list(zip(*made_up(rng, topics, QUESTIONS, 8), strict=True))
    taken = []
    for question, vector in [*questions[:20], *questions]:
        begun = time.perf_counter()
        kept = retriever.kept(question, retriever.near(question, vector, [PUBLIC]))
        taken.append((time.perf_counter() - begun) * 1e3)
        assert kept
    p50, p95 = np.percentile(taken[20:], (50, 95))
    return float(p50), float(p95)


def reranked(folder: Path, count: int) -> tuple[float, float]:
    """Milliseconds of a core until so many passages are in order, p50 and p95."""
    from ray_pipeline.chat import rerank
    from ray_pipeline.job.chat import Rerank, Retrieve

    topics = np.zeros((1, WIDTH), np.float32)
    texts, _ = made_up(np.random.default_rng(0), topics, 20 * count, 240)
    questions, _ = made_up(np.random.default_rng(1), topics, 20, 16)
    with patch.dict(os.environ, XDG_CACHE_HOME=str(folder)):
        told = Rerank(model=random_reranker(folder, texts), candidates=count)
        score = rerank.scoring(Retrieve(rerank=told))
    taken = []
    for number, question in enumerate(questions):
        begun = time.process_time()
        score(question, texts[number * count : (number + 1) * count])
        taken.append((time.process_time() - begun) * 1e3)
    p50, p95 = np.percentile(taken[2:], (50, 95))
    return float(p50), float(p95)


def random_reranker(folder: Path, texts: Sequence[str]) -> str:
    """The folder of a network of 6 layers of 384, and of a tokenizer that knows all words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    words = sorted({word for text in texts for word in text.split()})
    known = {name: place for place, name in enumerate([*special.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    read = ["input_ids", "token_type_ids", "attention_mask"]
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=read, **special)
    whole.save_pretrained(folder)
    shape = {"hidden_size": WIDTH, "num_attention_heads": 12, "intermediate_size": 4 * WIDTH}
    config = BertConfig(vocab_size=len(known), num_hidden_layers=6, num_labels=1, **shape)
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def made_up(
    rng: np.random.Generator, topics: np.ndarray, count: int, words: int
) -> tuple[Sequence[str], np.ndarray]:
    """Texts of words as frequent as in language (Zipf), and vectors [count, WIDTH] near topics."""
    letters = np.array(list("abcdefghijklmnoprstuvwz"))
    seeded = np.random.default_rng(1)  # the same words for passages and questions
    known = ["".join(seeded.choice(letters, seeded.integers(3, 10))) for _ in range(WORDS)]
    ranks = np.minimum(rng.zipf(1.1, (count, words)) - 1, WORDS - 1)
    texts = [" ".join(known[rank] for rank in row) for row in ranks]
    vectors = topics[rng.integers(0, len(topics), count)]
    vectors = vectors + 0.5 * rng.standard_normal(vectors.shape).astype(np.float32)
    return texts, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
