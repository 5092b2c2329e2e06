"""Lets the tests of this folder import its stand-ins."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
