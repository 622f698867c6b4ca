"""The demonstration county: the same for the same seed, honest throughout, and never in anybody's way."""
