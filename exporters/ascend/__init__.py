"""The files an Ascend device reads: OM models, and what `atc` needs for them."""
