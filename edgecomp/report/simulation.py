"""A count of instructions as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgecomp.simulate.run import Simulation


def print_simulation(result: Simulation) -> None:
    """The count, what kernels it belongs to, and what it is not."""
    version = "" if result.runtime_version is None else f" {result.runtime_version}"
    click.echo(f"{click.style(result.model, bold=True)} on {result.cpu}, {result.runtime}{version}, 1 thread")
    runs, processes = sum(len(values) for values in result.by_run), len(result.by_run)
    click.echo(
        f"  {result.instructions:,} instructions per inference (simulated by {result.emulator}; median of {runs} "
        f"runs in {processes} processes, which differ by {result.relative_difference:.2g})"
    )
    click.echo(f"  inputs          {result.inputs}")
    click.echo(f"  kernels         {describe_kernels(result)}")
    click.echo(f"  dot product     {_executed(result.dot_product, 'SDOT, UDOT')}")
    click.echo(f"  int8 matrix     {_executed(result.int8_matrix, 'SMMLA')}")
    click.echo(f"  FP16 arithmetic {_executed(result.half_precision, '16-bit floats')}")
    click.echo(
        "Instructions are no time: caches, memory and pipelines are not simulated. `edgecomp bench` measures time."
    )


def describe_kernels(result: Simulation) -> str:
    """Whether XNNPACK computed the operators, and how many of them."""
    if result.delegate is None:
        return "not known: this runtime does not tell"
    taken, total = result.delegate.delegated, result.delegate.total
    if taken == 0:
        return f"none of {total} operators by XNNPACK: the runtime's own kernels"
    plural = "" if result.delegate.partitions == 1 else "s"
    rest = "" if taken == total else f"; {total - taken} by the runtime's own kernels"
    return f"{taken} of {total} operators by XNNPACK, in {result.delegate.partitions} partition{plural}{rest}"


def _executed(count: int, what: str) -> str:
    return f"{count:,} of the instructions ({what})" if count else "none executed"
