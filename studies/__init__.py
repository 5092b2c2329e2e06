"""The article's studies, one command and one figure each: ``python -m studies.NAME [OVERRIDE ...]``."""
