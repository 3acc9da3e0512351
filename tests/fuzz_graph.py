"""Read mutated .tflite files: `python fuzz_graph.py COUNT SEED FILE...`.

Each input may raise GraphError and nothing else, takes at most 2 s (an alarm ends it) and the process may use 256 MiB
more than it had before the first one. Prints how many were read and how many refused.
"""

import random
import resource
import signal
import struct
import sys
from pathlib import Path

from edgecomp.errors import GraphError
from edgecomp.graph import operator_macs, read_graph
from edgecomp.memory import LITERT_BUILTIN, TFLM, estimate_arena, plan_memory

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0)


def mutated(data, others, generator):
    """One mutation or several, most of them where the tables are: outside the large constant buffers."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        if len(changed) < 8:
            break
        position = generator.randrange(len(changed) - 3)
        kind = generator.randrange(7)
        if kind == 0:
            changed[position] ^= 1 << generator.randrange(8)
        elif kind == 1:
            changed[position : position + 4] = struct.pack("<I", generator.choice(EXTREMES))
        elif kind == 2:
            changed[position : position + 2] = struct.pack("<H", generator.choice(EXTREMES) & 0xFFFF)
        elif kind == 3:
            del changed[position:]
        elif kind == 4:  # Point somewhere into the file: tables that are shared, or that contain themselves.
            changed[position : position + 4] = struct.pack("<I", generator.randrange(len(changed)))
        elif kind == 5:
            other = generator.choice(others)
            start = generator.randrange(len(other))
            changed[position:position] = other[start : start + generator.randrange(64)]
        else:
            stop = min(len(changed), position + generator.randrange(1, 256))
            changed[position:stop] = bytes(stop - position)
    return bytes(changed)


def read_everything(data):
    graph = read_graph(data)
    for subgraph, operator in graph.operators():
        operator_macs(subgraph, operator)
    for rules in (TFLM, LITERT_BUILTIN):
        plan_memory(graph, rules)
    estimate_arena(graph)
    return graph.macs, graph.weight_bytes


def main(count, seed, paths):
    files = [Path(path).read_bytes() for path in paths]
    # Constant buffers are most of a file and reading skips them: without their middle the tables are most of it.
    for data in files:
        read_everything(data)
    generator = random.Random(seed)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), used + (256 << 20)))
    read = refused = 0
    for index in range(count):
        data = mutated(generator.choice(files), files, generator)
        signal.alarm(2)
        try:
            read_everything(data)
            read += 1
        except GraphError:
            refused += 1
        except BaseException as error:
            print(f"input {index} of seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            raise
        finally:
            signal.alarm(0)
    print(f"{read} read, {refused} refused")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
