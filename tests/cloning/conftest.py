import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from served import server

__all__ = ["server"]
