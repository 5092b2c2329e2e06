"""Partial Network Cloning (arXiv 2303.10597): masked parts of zoo networks, grafted onto another and taken off."""
