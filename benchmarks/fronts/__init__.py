"""Does composing pay? Accuracy against budget for any zoo and data set: ``python -m benchmarks.fronts ZOO DATASET``."""
