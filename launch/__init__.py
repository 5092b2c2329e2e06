"""The application: from a command line to jobs of either method; the only place that knows Hydra."""
