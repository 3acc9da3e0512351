"""Bundles: one model for one device, with the proof."""
