"""`python -m edgecomp`."""

from edgecomp.cli import main

main(prog_name="edgecomp")
