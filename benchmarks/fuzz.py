"""Does the endpoint stand whatever bytes it is sent?

A real endpoint (HAProxy, Ray Serve, a replica) is sent random bytes, requests with bytes changed,
JSON and binary tensors with values changed, compressed and chunked bodies, floods of headers. It
must answer none with a 5xx, must still answer a right request at the end, and its processes must
not have grown. Exits 1, with what was sent, otherwise.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import secrets
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import psutil
from _asked import newest_bundle
from _common import finish
from serve import post, running

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.ports import free_ports

THREADS = 4
SILENT_S = 0.5
WARM_S = 5.0
MAX_GROWTH = 64 << 20
STRANGE = (
    *(None, True, False, 0, -1, 1.5, 2**63, -(2**63) - 1, 10**400, 1e308, "", " ", "\0", "?"),
    *("2013-02-30", "é\ud800", "x" * 5000, [], {}, [[]], {"a": {}}, float("nan"), float("inf")),
)
REFUSALS = {"501", "505"}
"""A method, transfer coding or version of HTTP that HAProxy does not speak: the client's fault."""
WORDS = (
    *(b"\r\n", b"\r\n\r\n", b"\0", b"\xff\xfe", b"Content-Length: 5\r\n", b"HTTP/1.1", b"chunked"),
    *(b"Transfer-Encoding: chunked\r\n", b"%00", b"../", b"{", b"[" * 500, b'"', b"Expect: 100-c"),
    *(b"X-Request-Timeout-Seconds: x\r\n", b"serve_multiplexed_model_id: \xff\r\n", b"9" * 500),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="default: the newest of storage/income/bundles")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle, seed = options.bundle or newest_bundle(), options.seed
    seed = secrets.randbits(32) if seed is None else seed
    print(f"seed {seed}", file=sys.stderr)
    key, port = f"rp_{secrets.token_urlsafe(32)}", free_ports(1)[0]
    with running("ours", bundle, port, key) as folder:
        figures = fuzzed(bundle, port, key, seconds=options.seconds, seed=seed, home=str(folder))
    statuses = figures.pop("statuses")
    rows = [{"answer": status, "times": count} for status, count in sorted(statuses.items())]
    finish("fuzz", rows, {}, figures, options.json, packages=("ray", "uvicorn", "msgspec"))


def fuzzed(
    bundle: str, port: int, key: str, *, seconds: float, seed: int, home: str
) -> dict[str, Any]:
    """What was answered; ends the program where something was answered that must not be."""
    row = example_row(bundles.opened(bundle))
    url, body = f"http://127.0.0.1:{port}/model/predict", json.dumps({"rows": [row]})
    assert post(url, body, key)[0] == 200
    statuses: collections.Counter[str] = collections.Counter()
    failures: list[tuple[bytes, bytes]] = []
    ends = time.monotonic() + WARM_S + seconds

    def attack(number: int) -> None:
        chance = random.Random(seed + number)
        while time.monotonic() < ends and not failures:
            sent = chance.choice(KINDS)(chance, row, key)
            answer = answered(port, sent)
            found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
            status = found[1].decode() if found else "closed" if not answer else "other"
            statuses[status] += 1
            if status.startswith("5") and status not in REFUSALS:
                failures.append((sent, answer))

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_S)
    before = memory(home)
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"answered {failures[0][1][:300]!r} to\n{failures[0][0][:3000]!r}")
    time.sleep(1)
    status, _ = post(url, body, key)
    after = memory(home)
    growth = {name: after.get(name, 0) - size for name, size in before.items()}
    assert status == 200, f"a right request is answered with {status} afterwards"
    assert set(after) >= set(before), f"processes ended: {before} became {after}"
    assert max(growth.values()) < MAX_GROWTH, f"memory grew: {growth}"
    return {
        "requests": statuses.total(),
        "seconds": seconds,
        "largest_growth_bytes": max(growth.values()),
        "processes": len(before),
        "statuses": dict(statuses),
    }


def memory(home: str) -> dict[str, int]:
    """Bytes that each replica and HAProxy hold, by name and process."""
    found = {}
    for process in psutil.process_iter(["name", "cmdline", "pid"]):
        line = " ".join(process.info["cmdline"] or ())
        try:
            if ("ServeReplica" in line or "haproxy" in process.info["name"]) and home in str(
                process.environ().get("RAY_PIPELINE_HOME")
            ):
                found[f"{line[:40]} {process.info['pid']}"] = process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    assert found, "the endpoint's processes are not found"
    return found


def answered(port: int, sent: bytes) -> bytes:
    """The first part of what the server says to `sent`; empty if it says nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SILENT_S) as client:
            client.sendall(sent)
            return client.recv(65536)
    except OSError:  # it may close while we send, and need not answer what is no request
        return b""


def request(
    key: str, body: bytes, path: str = "/model/predict", *more: str, keep: bool = False
) -> bytes:
    """A request, after which the connection ends if it is not to be kept."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"X-API-Key: {key}"]
    lines += [] if keep else ["Connection: close"]
    lines += [f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


def noise(chance: random.Random, _row: Any, _key: str) -> bytes:
    return chance.randbytes(chance.randint(1, 2000))


def altered_request(chance: random.Random, row: Any, key: str) -> bytes:
    """A right request in which bytes were changed, removed, doubled or put in."""
    return altered(chance, request(key, json.dumps({"rows": [row]}).encode()))


def altered_body(chance: random.Random, row: Any, key: str) -> bytes:
    return request(key, altered(chance, json.dumps({"rows": [row]}).encode()))


def strange_rows(chance: random.Random, row: Any, key: str) -> bytes:
    """JSON, with values, columns and forms that no row has."""
    rows = []
    for _ in range(chance.choice((0, 1, 1, 2, 50))):
        changed = {name: value for name, value in row.items() if chance.random() < 0.98}
        for name in chance.sample([*row, "other", "a\nb"], chance.randint(0, 3)):
            changed[name] = chance.choice(STRANGE)
        rows.append(changed)
    document: Any = chance.choice(({"rows": rows}, {"rows": rows}, rows, {"rows": rows, "x": 1}))
    text = json.dumps(document, ensure_ascii=chance.random() < 0.7)
    return request(key, text.encode(errors="surrogatepass"))


def strange_tensors(chance: random.Random, row: Any, key: str) -> bytes:
    """The Open Inference Protocol, binary or not, with a few lies."""
    inputs, after = [], b""
    for name, value in row.items():
        tensor: dict[str, Any] = {"name": name, "shape": [1], "datatype": "BYTES"}
        if chance.random() < 0.5:
            text = str(value).encode()
            content = struct.pack("<I", len(text)) + text
            if chance.random() < 0.1:
                content = altered(chance, content)
            tensor["parameters"] = {"binary_data_size": len(content)}
            after += content
        else:
            tensor["data"] = [value]
        if chance.random() < 0.05:
            tensor[chance.choice(list(tensor))] = chance.choice(STRANGE)
        inputs.append(tensor)
    head = json.dumps({"inputs": inputs}).encode()
    length = chance.choice((len(head), len(head), len(head), 0, 10**9, "x"))
    more = f"Inference-Header-Content-Length: {length}"
    return request(key, head + after, "/v2/models/model/infer", more)


def odd_transfer(chance: random.Random, row: Any, key: str) -> bytes:
    """Compressed, chunked, unfinished, with many headers, or up to another protocol."""
    body = json.dumps({"rows": [row]}).encode()
    many = [f"X-{number}: {chance.random()}" for number in range(chance.randint(0, 150))]
    kind = chance.randrange(5)
    if kind == 0:
        return request(key, zlib.compress(b" " * 10**7), "/model/predict", "Content-Encoding: gzip")
    if kind == 1:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (chance.choice((len(body), 5, 2**70)), body)
        return (
            request(key, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + chunked
        )
    if kind == 2:
        return request(key, body, "/model/predict", *many)
    if kind == 3:
        return request(key, body)[: chance.randint(1, 400)]
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    return request(key, b"", "/model/predict", *upgrade, "Sec-WebSocket-Key: eA==")


def odd_path(chance: random.Random, _row: Any, key: str) -> bytes:
    known = [
        "model",
        "predict",
        "v2",
        "models",
        "infer",
        "health",
        "ready",
        "metrics",
        "docs",
        "..",
    ]
    parts = [
        chance.choice((*known, "%ff", "%00", chance.randbytes(3).hex(), "a" * 3000))
        for _ in range(chance.randint(0, 5))
    ]
    method = chance.choice(("GET", "HEAD", "PUT", "OPTIONS", "TRACE", "PATCH", "NONE"))
    start = f"{method} /{'/'.join(parts)}?{chance.randbytes(4).hex()} HTTP/1.1\r\n"
    return f"{start}Host: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n".encode()


def altered(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at, until = sorted(chance.choices(range(len(changed) + 1), k=2))
        until = min(until, at + 20)
        changed[at:until] = chance.choice(
            (b"", chance.randbytes(3), changed[at:until] * 2, chance.choice(WORDS))
        )
    return bytes(changed)


KINDS: tuple[Callable[[random.Random, Any, str], bytes], ...] = (
    *(noise, altered_request, altered_body, strange_rows, strange_tensors, odd_transfer, odd_path),
)


if __name__ == "__main__":
    main()
