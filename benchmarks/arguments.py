"""Types of the arguments of benchmarks and studies."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A number of the command line that is at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: allowed are whole numbers from 1 on")
    return int(text)
