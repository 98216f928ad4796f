"""The command line: which commands there are and what they take.

Exit status: 0 done; 1 failed; 2 the job, the data or the usage is wrong; 3 a gate refused.
Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray_pipeline import (
    __version__,
    commands,
    commands_chat,
    commands_cluster,
    commands_records,
    commands_release,
    commands_ui,
    commands_watch,
)
from ray_pipeline.errors import PipelineError
from ray_pipeline.results import Results

Command = Callable[..., argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    if arguments is None:  # a process of its own, at the end of which Ray may print as well
        sys.stdout = Results(sys.stdout)
    try:
        return options.command(options) or 0
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ray-pipeline runs | head` closed its end, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ray-pipeline",
        description="From raw data to an autoscaled, monitored HTTP endpoint on Ray.",
        epilog="exit status: 0 done; 1 failed; 2 wrong job, data or usage; 3 a gate refused",
    )
    parser.add_argument("--version", action="version", version=f"ray-pipeline {__version__}")
    known = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_jobs(partial(_added, known))
    _add_records(partial(_added, known))
    _add_releases(partial(_added, known))
    _add_serving(partial(_added, known))
    _add_cluster(partial(_added, known))
    return parser


def _added(known: Any, function: Any, *arguments: str) -> argparse.ArgumentParser:
    """The parser of a command that is called and described as its function is."""
    text = (function.__doc__ or "").strip()
    added: argparse.ArgumentParser = known.add_parser(
        function.__name__, help=text.splitlines()[0].rstrip("."), description=text
    )
    added.set_defaults(command=function)
    for argument in arguments:
        added.add_argument(argument.lower(), metavar=argument)
    added.add_argument("--json", action="store_true", help="print one JSON object")
    return added


def _add_jobs(command: Command) -> None:
    """What is done with a job file; each takes `--set`."""
    command(commands.init).add_argument("folder", nargs="?", default=".", metavar="DIR")
    validating = command(commands.validate, "JOB")
    running = command(commands.run, "JOB")
    running.add_argument("--until", metavar="STAGE", help="stop after this stage")
    asking = command(commands.annotate, "JOB")
    asking.add_argument("-o", "--output", required=True, help=".json file for the tasks")
    asking.add_argument("--count", type=int, default=200, help="at most so many tasks (200)")
    asking.add_argument(
        "--by",
        choices=("uncertainty", "diversity", "both"),
        default="both",
        help="where a model is unsure, far from each other, or both (both)",
    )
    asking.add_argument("--bundle", help="the model, instead of the label model")
    asking.add_argument(
        "--show",
        action="append",
        default=[],
        metavar="COLUMN",
        help="show only this, and others so named, instead of all features",
    )
    erasing = command(commands.forget, "JOB")
    erasing.add_argument("--subject", required=True, metavar="ID", help="whose rows they are")
    expiring = command(commands.expire, "JOB")
    watching = command(commands_watch.watch, "JOB")
    watching.add_argument("--once", action="store_true", help="look once, and end")
    talking = command(commands_chat.chat, "JOB")
    talking.add_argument(
        "--transcripts",
        metavar="FILE",
        help="print for each line of FILE (`question`, `answer`) what a language model is told of "
        "the question, and the answer: transcripts that a `language` job learns from",
    )
    for parser in (validating, running, asking, erasing, expiring, watching, talking):
        parser.add_argument(
            "--set", action="append", default=[], metavar="A.B=VALUE", help="change a setting"
        )
    command(commands.schema)


def _add_records(command: Command) -> None:
    """What a storage has kept; each takes `--storage`."""
    listing = command(commands_records.runs)
    listing.add_argument("--job", help="only this job's")
    showing = command(commands_records.show, "RUN")
    showing.add_argument("--curl", action="store_true", help="only the line that asks the endpoint")
    comparing = command(commands_records.compare, "A", "B")
    reporting = command(commands_records.report, "RUN")
    auditing = command(commands_records.audit)
    auditing.add_argument("--verify", action="store_true", help="check the chain of entries")
    auditing.add_argument(
        "--head", metavar="HASH", help="a newest hash noted before, to find again"
    )
    for parser in (listing, showing, comparing, reporting, auditing):
        parser.add_argument("--storage", default="storage", help="where runs are kept")


def _add_releases(command: Command) -> None:
    """What is live, and changing it."""
    deploying = command(commands_release.deploy, "BUNDLE")
    deploying.add_argument("--name", help="the endpoint's name, if not the job's")
    deploying.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="set, say, port=8080"
    )
    listing = command(commands_release.endpoints)
    listing.add_argument("--history", metavar="NAME", help="what was released under that name")
    promoting = command(commands_release.promote, "NAME")
    promoting.add_argument(
        "--job", metavar="JOB", help="release the challenger that `watch` has waiting"
    )
    back = command(commands_release.rollback, "NAME")
    back.add_argument("--to", metavar="VERSION", help="this one, instead of the one before")
    removing = command(commands_release.remove, "NAME")
    for parser in (deploying, back, removing):
        parser.add_argument("--why", default="", help="for the history")
    page = command(commands_ui.ui)
    page.add_argument("--port", type=int, default=8500, help="where it listens (8500)")
    page.add_argument("--host", default="127.0.0.1", help="(127.0.0.1) another only behind TLS")
    page.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="JOB",
        help="a watched job, and others so named, whose waiting challengers may be released",
    )
    for parser in (deploying, listing, back, page):
        parser.add_argument("--storage", default="storage", help="where releases are kept")


def _add_serving(command: Command) -> None:
    """What predicts, and what it runs on."""
    serving = command(commands.serve)
    serving.add_argument("bundle", nargs="+", metavar="BUNDLE")
    serving.add_argument(
        "--loaded",
        type=int,
        metavar="N",
        help="one application for all bundles, with N of them in a replica's memory",
    )
    serving.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="set, say, port=8080"
    )
    predicting = command(commands.predict, "BUNDLE", "INPUT")
    predicting.add_argument("--table", help="the table to read, if INPUT is a database's URL")
    predicting.add_argument("--query", help="a SELECT instead of a table")
    predicting.add_argument("-o", "--output", required=True, help=".parquet, .csv or .jsonl file")
    command(commands.rotate)
    command(commands.up).add_argument(
        "--jobs", action="store_true", help="with Ray's page and its Jobs API, for `submit`"
    )
    command(commands.down)
    command(commands.key).add_argument("--new", action="store_true", help="replace the key")
    opening = command(commands.keys)
    opening.add_argument("action", choices=("add", "list", "revoke"))
    opening.add_argument("name", nargs="?", metavar="NAME", help="of the key to add or revoke")
    opening.add_argument(
        "--scope",
        action="append",
        choices=("predict", "metrics", "feedback", "admin"),
        help="what it opens, and others so named (predict)",
    )
    opening.add_argument(
        "--endpoint", action="append", default=[], metavar="NAME", help="only this one's"
    )
    opening.add_argument("--rate", type=float, help="requests a second for each endpoint")
    opening.add_argument("--burst", type=int, help="requests at once (as many as in a second)")
    opening.add_argument("--expires", metavar="TIME", help="ends after, say, 90d, 12h or 30m")
    opening.add_argument("--overlap", metavar="TIME", help="so long the old key opens beside it")


def _add_cluster(command: Command) -> None:
    """What is done on other machines; each takes `--address`."""
    submitting = command(commands_cluster.submit, "JOB")
    instead = submitting.add_mutually_exclusive_group()
    instead.add_argument("--until", metavar="STAGE", help="stop after this stage")
    instead.add_argument(
        "--watch", action="store_true", help="instead of a run, one look of `watch`, each time anew"
    )
    writing = command(commands_cluster.kubernetes, "JOB")
    writing.add_argument("-o", "--output", required=True, metavar="DIR")
    writing.add_argument("--image", required=True, help="with ray-pipeline and what the job needs")
    writing.add_argument("--bundle", metavar="URI", help="the endpoint's, on a storage pods reach")
    writing.add_argument("--host", help="the endpoint's name outside, for an Ingress with TLS")
    writing.add_argument("--namespace", help="(default)")
    writing.add_argument("--redis", metavar="HOST:PORT", help="keeps the head's state (redis:6379)")
    writing.add_argument("--gpus", type=int, help="GPU workers that training may have (0)")
    for parser in (submitting, writing):
        parser.add_argument(
            "--set", action="append", default=[], metavar="A.B=VALUE", help="change a setting"
        )
    asking = command(commands_cluster.status)
    asking.add_argument(
        "submission", nargs="?", metavar="SUBMISSION", help="or how its name begins"
    )
    reading = command(commands_cluster.logs, "SUBMISSION")
    for parser in (submitting, reading):
        parser.add_argument("--follow", action="store_true", help="go on until it has ended")
    for parser in (submitting, asking, reading, command(commands_cluster.stop, "SUBMISSION")):
        parser.add_argument(
            "--address",
            metavar="URL",
            help="of Ray's Jobs API; RAY_API_SERVER_ADDRESS, or the local cluster's",
        )
        parser.add_argument(
            "--insecure", action="store_true", help="send the token over plain http to any machine"
        )


if __name__ == "__main__":
    sys.exit(main())
