"""Repair of a model that quantization damages, without labels and without training."""
