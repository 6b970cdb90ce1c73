"""The command line: parses arguments, runs one command, returns its exit code."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from decision_seq.commands import build_parser
from decision_seq.commands.console import BAD_INPUT, error_prefix
from decision_seq.commands.failures import BUG, debugging, print_bug, print_failure, tell_launcher
from decision_seq.commands.parsing import option_names
from decision_seq.commands.streams import lenient_errors, results_alone, settle_stdout
from decision_seq.machine.files import disk_full
from decision_seq.machine.signals import STOPPING, is_ignored
from decision_seq.plugins import load_plugins
from decision_seq.suggestions import option_meant
from decision_seq.types import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command -> the exit code: 0, 2 for bad input, 128 + signal when interrupted, 70 for
    an unexpected error."""
    former, threading.excepthook = threading.excepthook, _thread_failed
    try:
        with lenient_errors():
            return _main(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        threading.excepthook = former


def _main(arguments: list[str]) -> int:
    try:
        load_plugins(_plugins(arguments), "--plugin")  # they may add verbs
    except UserError as error:
        return _report(error, arguments, "--debug" in arguments)
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    verb: Callable[[argparse.Namespace], int] = options.run
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if number != signal.SIGINT and not is_ignored(number):
                signal.signal(number, _terminate)
    if rest and not options.takes_overrides:
        meant = option_meant(rest[0], option_names(options.parser))
        hint = f"; did you mean {meant}?" if meant else ""
        options.parser.error(f"unrecognised argument {rest[0]}{hint}")
    debug = debugging(options.debug)
    options.overrides = rest
    options.arguments = arguments
    try:
        with results_alone() if getattr(options, "json", False) else contextlib.nullcontext():
            code = verb(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # a failure is reported here, not when Python ends
        return code
    except Terminated as stop:
        return 128 + stop.number
    except KeyboardInterrupt:
        print("decision-seq: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has exited
        settle_stdout()
        return 0
    except Exception as error:
        return _report(error, arguments, debug)


def _plugins(arguments: list[str]) -> list[str]:
    """The modules that `--plugin MODULE` names, anywhere among the arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[], nargs="?")
    named = parser.parse_known_args(arguments)[0].plugin
    return [module for module in named if module]


def _report(error: Exception, arguments: list[str], debug: bool) -> int:
    """Print the error -> the exit code."""
    full = disk_full(error)
    if isinstance(error, UserError):
        prefix = error_prefix(error)
        text = " ".join(str(error).split())
        if prefix is None:  # another rank prints it
            tell_launcher(text)
        line = None if prefix is None else f"{prefix}{text}"
    elif isinstance(error, OSError):  # the system refused: a name too long, no permission
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        line = f"{where}{' '.join(str(full or error.strerror or error).split())}"
    elif full is not None:
        line = f"{full}; make room and run again"
    else:
        print_bug(error, arguments, debug)
        return BUG
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if line is not None:
        print_failure(line)
    settle_stdout()  # it may be on the disk that is full
    return BAD_INPUT


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Print the traceback of an error in a thread, but not of a disk's: the main thread, which
    TensorBoard's thread writes for, meets that too."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


class Terminated(KeyboardInterrupt):
    """A scheduler's signal, handled like Ctrl-C so that no partial output remains."""

    def __init__(self, number: int) -> None:
        self.number = number


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated(number)
