"""What edgecomp costs in time and memory: `python -m benchmarks` from the root of a checkout."""
