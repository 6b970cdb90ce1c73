"""The command line: parses arguments, runs one command, returns its exit code."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from decision_seq.commands import build_parser
from decision_seq.commands.console import BAD_INPUT, error_prefix
from decision_seq.escaping import terminal
from decision_seq.types import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command -> the exit code: 0, 2 for bad input, 128 + signal when interrupted."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    verb: Callable[[argparse.Namespace], int] = options.run
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, _terminate)
    if rest and not options.takes_overrides:
        options.parser.error(f"unrecognised argument {rest[0]}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks "±" shows "?"
    options.overrides = rest
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return verb(options)
    except UserError as error:
        prefix = error_prefix(error)
        if prefix is not None:
            print(
                f"decision-seq: {prefix}{terminal(' '.join(str(error).split()))}", file=sys.stderr
            )
        return BAD_INPUT
    except Terminated as stop:
        return 128 + stop.number
    except KeyboardInterrupt:
        print("decision-seq: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # the system refused: a full disk, a name too long, no permission
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        print(f"decision-seq: {terminal(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return BAD_INPUT


class Terminated(KeyboardInterrupt):
    """A scheduler's signal, handled like Ctrl-C so that no partial output remains."""

    def __init__(self, number: int) -> None:
        self.number = number


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated(number)
