"""The file that a device with TFLM gets: without what TFLM never reads, coded where it would not fit otherwise.

`edgecomp.pack` makes such files and proves them equal; here is decided which one is shipped. docs/packing.md has more.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from edgecomp.errors import EdgecompError, WorkerError
from edgecomp.files import sha256_of, write_atomic
from edgecomp.graph import read_graph
from edgecomp.memory import estimate_arena
from edgecomp.results import CandidateResult, Packing
from edgecomp.stages import MadeFile, Workbench, bound_data

if TYPE_CHECKING:
    from edgecomp.candidates import Shop, Target

# TFLM's reference kernels take about 1 ns a multiplication: a proof runs each file for about half a second. Not by the
# clock, so that one seed gives one result.
_PROVEN_MACS = 400_000_000
_MIN_SAMPLES, _MAX_SAMPLES = 16, 100

_MISSING = "tflite-micro, which proves packed files equal, is not installed here"


@dataclass(frozen=True)
class ShippedFile(MadeFile):
    """What goes to the device; `path` and all else of a MadeFile are of this very file.

    Attributes:
        packing: How it was packed; None where it is the file as it was made.
        arena_bytes: In tflite-micro on this machine; None where it is the file as it was made.
        reason: Why it is not packed, or not as asked, in one clause; None if there is nothing to say.
    """

    packing: Packing | None
    arena_bytes: int | None
    reason: str | None = None


@dataclass(frozen=True)
class _PackedFile:
    """A packed file on disk.

    Attributes:
        arena_bytes: Simulated.
        samples: On which its outputs are those of the file that it came from.
        reason: Why it is that file still; None if it is not.
    """

    file: MadeFile
    kinds: tuple[str, ...]
    arena_bytes: int
    samples: int
    reason: str | None


def ship_for_tflm(shop: Shop, target: Target, made: MadeFile, *, coded: bool) -> ShippedFile:
    """Choose the file that is shipped for one that was made; what cannot be packed is shipped as it is.

    Weights are coded only where the slimmed file is above the limit of the model's size, or where it is asked for:
    decoding takes time at every inference, and arena.

    Args:
        shop: Its worker for tflite-micro packs and proves; the packed file is left in the run folder by its sha256.
        target: Runtime of its profile, and limits of size and RAM.
        made: Any .tflite file of the run.
        coded: Code the weights even if the file fits without.

    Returns:
        The smallest file that was allowed; coded weights only if the arena keeps to its limit.
    """
    as_made = ShippedFile(**_fields(made), packing=None, arena_bytes=None)
    if target.profile.runtime.name != "tflm":
        return as_made
    if importlib.util.find_spec("tflite_micro") is None:
        return replace(as_made, reason=_MISSING)
    try:
        slim = _pack(shop, made, (), None)
    except EdgecompError as error:
        return replace(as_made, reason=_clause(error))
    if slim.reason is not None:
        return replace(as_made, reason=slim.reason)
    best, reason = slim, None
    limit = target.budget.max_model_bytes
    if coded or (limit is not None and slim.file.model_bytes > limit):
        best, reason = _coded(shop, made, slim, target.budget.max_ram_bytes)
    if best.file.model_bytes >= made.model_bytes:
        return replace(as_made, reason="there is nothing to leave out")
    packing = Packing(
        kinds=best.kinds,
        plain_bytes=slim.file.model_bytes,
        unpacked_bytes=made.model_bytes,
        unpacked_sha256=made.sha256,
        proven_samples=best.samples,
    )
    return ShippedFile(**_fields(best.file), packing=packing, arena_bytes=best.arena_bytes, reason=reason)


def _coded(shop: Shop, made: MadeFile, slim: _PackedFile, max_ram_bytes: int | None) -> tuple[_PackedFile, str | None]:
    """The coded file where that is of use, else the slimmed one, and why."""
    from edgecomp.pack.tflm_lut import KINDS

    graph = read_graph(slim.file.path.read_bytes())
    if not any(tensor.is_constant and tensor.type == "INT8" for tensor in graph.main.tensors):
        return slim, "weights are not coded: none has 8 bits"
    limit = None
    if max_ram_bytes is not None:
        # The packer estimates a 32-bit core's arena; what candidates are held against was allocated on this machine.
        limit = max_ram_bytes - (slim.arena_bytes - estimate_arena(graph).total_bytes)
    try:
        coded = _pack(shop, made, KINDS, limit)
    except EdgecompError as error:
        return slim, f"weights are not coded: {_clause(error)}"
    if coded.reason is not None:
        return slim, f"weights are not coded: {coded.reason}"
    if coded.file.model_bytes >= slim.file.model_bytes:
        return slim, "weights are not coded: the file would not get smaller, or the arena too large"
    if max_ram_bytes is not None and slim.arena_bytes <= max_ram_bytes < coded.arena_bytes:
        return slim, f"weights are not coded: decoding takes the arena to {coded.arena_bytes:,} bytes"
    return coded, None


def _pack(shop: Shop, made: MadeFile, kinds: Collection[str], arena_limit_bytes: int | None) -> _PackedFile:
    packed: _PackedFile = shop.once(
        ("pack", made.sha256, tuple(kinds), arena_limit_bytes),
        lambda: shop.micro.call(
            "edgecomp.packing:pack_file", bench=shop.bench, made=made, kinds=kinds, arena_limit_bytes=arena_limit_bytes
        ),
    )
    return packed


def with_file(result: CandidateResult, shipped: ShippedFile) -> CandidateResult:
    """The result with the sizes of the file that is shipped for the one that was scored."""
    update: dict[str, object] = {"packing_note": shipped.reason}
    if shipped.packing is not None:
        update |= {
            "sha256": shipped.sha256,
            "model_bytes": shipped.model_bytes,
            "compressed_bytes": shipped.compressed_bytes,
            "packing": shipped.packing,
            "arena_bytes": shipped.arena_bytes,
            "ram_bytes": shipped.arena_bytes,
        }
    return result.model_copy(update=update)


def pack_file(bench: Workbench, made: MadeFile, kinds: Collection[str], arena_limit_bytes: int | None) -> _PackedFile:
    """Pack a file and leave it in the run folder; runs in the worker for tflite-micro.

    Raises:
        PackingError, RuntimeRefusedError: It cannot be packed.
    """
    from edgecomp.pack import pack_for_tflm
    from edgecomp.pack.tflm_lut import KINDS

    data = made.path.read_bytes()
    inputs = bound_data(bench).split("validation").head(_samples(read_graph(data).macs)).read()
    wanted = [kind for kind in KINDS if kind in kinds]
    packed = pack_for_tflm(data, inputs, kinds=wanted, arena_limit_bytes=arena_limit_bytes)
    report = packed.report
    digest = sha256_of(packed.data)
    path = bench.folder / f"{digest}.tflite"
    if not path.exists():
        write_atomic(path, packed.data)
    used = {row.kind for row in report.tensors}
    return _PackedFile(
        file=MadeFile(
            path=path,
            sha256=digest,
            model_bytes=len(packed.data),
            compressed_bytes=len(zlib.compress(packed.data, 9)),
            method=made.method,
            float_operators=made.float_operators,
        ),
        kinds=tuple(kind for kind in KINDS if kind in used),
        arena_bytes=report.after.arena_total_bytes,
        samples=report.samples,
        reason=report.reason,
    )


def _samples(macs: int) -> int:
    return max(_MIN_SAMPLES, min(_MAX_SAMPLES, _PROVEN_MACS // max(macs, 1)))


def _fields(made: MadeFile) -> dict[str, Any]:
    return {item.name: getattr(made, item.name) for item in fields(MadeFile)}


def _clause(error: EdgecompError) -> str:
    # A worker's hint says where its log is; other hints repeat what to do for the whole command.
    return (str(error) if isinstance(error, WorkerError) else error.message).rstrip(".")
