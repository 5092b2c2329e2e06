"""Speed and quality as ratios measured in one run: ``python -m benchmarks.NAME``."""

from zoo import threads

threads.prepare()  # before torch is loaded
