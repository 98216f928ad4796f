"""wrk, the load tool: what it is told to send, and what it says of the answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SCRIPT = """
local bodies = {%s}
local headers = {["X-API-Key"] = "%s", ["Content-Type"] = "application/json"}
local requests, sent = {}, 0

function init()
  for number, body in ipairs(bodies) do
    requests[number] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  sent = sent + 1
  return requests[sent %% #requests + 1]
end
"""


def must_be_here() -> None:
    if shutil.which("wrk") is None:
        sys.exit("the load tool is missing: apt-get install wrk")


def script(folder: Path, bodies: Sequence[str], key: str) -> Path:
    """A file that tells wrk to send the bodies in turns."""
    assert not any("]==]" in body for body in bodies), "a body would end its own quotation"
    quoted = ", ".join(f"[==[{body}]==]" for body in bodies)
    file = folder / "post.lua"
    file.write_text(_SCRIPT % (quoted, key))
    return file


def load(url: str, told: Path, connections: int, seconds: int) -> dict[str, float]:
    """Requests, requests a second, and the median and 99th percentile of latency in milliseconds.

    Of answers that came in that time: where all connections together had few, the latencies are
    those of the first.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["--timeout", "60s", "-s", str(told), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    count = re.search(r"(\d+) requests in", text)
    assert rate, text
    assert count, text
    median, late = _latency(text, 50), _latency(text, 99)
    return {
        "requests": int(count[1]),
        "requests/s": float(rate[1]),
        "p50 ms": median,
        "p99 ms": late,
        "p99/p50": late / median,
    }


def _latency(text: str, percentile: int) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s|m)\b", text)
    assert found, text
    return round(float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60e3}[found[2]], 3)
