"""Figures: one style for all of them, one file of each as PNG and one as SVG. Only these modules know matplotlib."""
