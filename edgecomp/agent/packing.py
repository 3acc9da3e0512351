"""The agent as one file: its modules in a zip that Python runs, the same bytes each time, named after them."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

from edgecomp.files import sha256_of

TOO_OLD = "Python 3.7 or newer is needed"

# Read by a Python of any age, and by any login shell: one line, no quotes but these.
BOOT = (
    "import sys; sys.version_info < (3, 7) and sys.exit("
    f'"{TOO_OLD}, this is %d.%d" % sys.version_info[:2]); '
    "exec(sys.stdin.buffer.read(int(sys.argv[1])))"
)
"""The program for `python -c BOOT LENGTH`: runs the first LENGTH bytes of its stdin, which keeps the rest."""

_MODULES = Path(__file__).parent / "on_device"
_MAIN = "import sys\nfrom edgecomp_agent.main import main\nsys.exit(main(sys.argv))\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # The earliest time that a zip can state.


@lru_cache(maxsize=1)
def agent_file() -> tuple[str, bytes]:
    """Name and bytes of the agent; not compressed, since a Python on a device may lack zlib."""
    sources = {"__main__.py": _MAIN.encode()}
    for path in sorted(_MODULES.glob("*.py")):
        sources[f"edgecomp_agent/{path.name}"] = path.read_bytes()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sources.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    data = stream.getvalue()
    return f"agent-{sha256_of(data)[:16]}.pyz", data
