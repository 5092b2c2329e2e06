import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the stand-ins serve the tests and the script of the DDP test
