"""The words of all commands that have no Hydra: a wrong one ends the command with one line and exit status 2."""

from __future__ import annotations

import argparse
import difflib
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from zoo.errors import UserError, tell
from zoo.limits import MAX_INTEGER, shown


class Parser(argparse.ArgumentParser):
    """Says what was given, what is allowed and what to type, in the place of the usage and argparse's words."""

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        self.exit(2, f"error: {self._told(' '.join(message.split()))}\n")

    def add_subparsers(self, **options: Any) -> argparse._SubParsersAction:
        """Of commands that refuse unknown words themselves, for they alone know their options."""
        return super().add_subparsers(parser_class=_Command, **options)

    def _told(self, message: str) -> str:
        if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
            actions = list(filter(None, map(self._named, missing[1].split(", "))))
            told = f"{missing[1]} is not given"
            if actions:
                told = f"{told}: type {' '.join(map(_typed, actions))}"
            return f"{told} ({actions[0].help})" if len(actions) == 1 and actions[0].help else told
        if unknown := re.fullmatch(r"unrecognized arguments: (.*)", message):
            return self._unknown(unknown[1].split(" ")[0])
        if not (of_one := re.fullmatch(r"argument ([^:]*): (.*)", message)):
            return message
        name, reason = of_one.groups()
        action = self._named(name)
        if choice := re.fullmatch(r"invalid choice: (.*?) \(choose from .*", reason):
            reason = f"{shown(choice[1])} is unknown"
        elif wrong := re.fullmatch(r"invalid (\w+) value: (.*)", reason):
            reason = f"{shown(wrong[2])} is no {_KINDS.get(wrong[1], wrong[1])}"
        return f"{name}: {reason}; type {_typed(action)}" if action is not None else f"{name}: {reason}"

    def _named(self, name: str) -> argparse.Action | None:
        for action in self._actions:
            if name in ("/".join(action.option_strings), action.metavar, action.dest):
                return action
        return None

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{shown(word)} is one word too many: {self.prog} --help lists what it takes"
        given, known = word.partition("=")[0], [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(given, known, n=3)
        allowed = " or ".join(close) or f"one of {', '.join(known)}"
        return f"there is no option {shown(given)}: type {allowed}"


class _Command(Parser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return found, left


_KINDS = {"int": "whole number", "float": "number"}


def _typed(action: argparse.Action) -> str:
    """An argument as it can be typed: with its default where that says more than its name."""
    option = action.option_strings[-1] if action.option_strings else ""
    if action.nargs == 0:
        return option
    if action.choices is not None:
        value = f"one of {', '.join(map(str, action.choices))}"
        return f"{option} {value}" if option else value
    default = action.default if isinstance(action.default, (list, tuple)) else [action.default]
    if option and default and all(isinstance(value, (str, int, float)) for value in default):
        return f"{option} {' '.join(map(str, default))}, or leave it out"
    name = action.metavar or (action.dest.upper() if option else action.dest)
    return f"{option} {name}".strip()


def whole(low: int, high: int = MAX_INTEGER) -> Callable[[str], int]:
    """The type of arguments that are whole numbers in [low, high]."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,20}", text) or not low <= int(text) <= high:
            limits = f"from {low:,} on" if high == MAX_INTEGER else f"from {low:,} to {high:,}"
            raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number {limits}")
        return int(text)

    return read


positive = whole(1)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which whoever closes what is open on Ctrl-C closes on, too."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def run(main: Callable[[], int | None], *, goes_on: bool = False) -> NoReturn:
    """Ends the process with the exit status of a command, or with the one line of what the user can mend.

    Args:
        main: The command.
        goes_on: Whether the same command goes on where Ctrl-C or SIGTERM (exit status 130 and 143) stopped it.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        status = main()
    except UserError as error:
        status = tell(error)
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning ends the process on Ctrl-C by an exit of its own, whose context is the interruption.
        cause = error if isinstance(error, KeyboardInterrupt) else error.__context__
        if not isinstance(cause, KeyboardInterrupt):
            raise
        print("interrupted" + ": the same command goes on where it was stopped" * goes_on, file=sys.stderr)
        status = 128 + (signal.SIGTERM if isinstance(cause, _Terminated) else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(status)
