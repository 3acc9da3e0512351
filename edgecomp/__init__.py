"""edgecomp: fit a trained model to a device, with proof."""
