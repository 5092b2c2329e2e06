"""Overrides that make comparisons of whole trainings small: what is tested with them are the instruments."""

FEW = [
    "dataset.num_train=40",
    "dataset.num_validation=30",
    "tuning.num_epochs=1",
    "partition=k2",
    "similarity.num_probe_images=24",
    "partition.num_starts=2",
    "partition.max_bound_steps=50",
]
FEW_SCORES = ["proxy.num_images=24", "proxy.num_draws=1"]
FEW_PICKS = [*FEW_SCORES, "finalists=1"]
WITHOUT = ("resnext_low", "mobilenetv3_rotation", "convnext_odd", "vit_digits", "mixer_inverted")
"""Of the embedded zoo, so that two networks are left."""
