"""One process that answers for many cloned networks over HTTP (``python -m cloning serve``)."""
