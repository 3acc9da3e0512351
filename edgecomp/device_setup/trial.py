"""Proves on the device that a runtime works: in a process of its own, since a wrong one may end it.

Python 3.7 or newer. The model is on stdin, what to do is the argument; the answer is the last line of stdout.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

MARK = '{"edgecomp": 1, '


def main() -> None:
    """Import the runtime from the folder, load the model, run it once."""
    job = json.loads(sys.argv[1])
    sys.path.insert(0, job["folder"])
    answer: dict[str, object]
    try:
        numpy = import_module("numpy")
        runtime = import_module(job["package"] + ".interpreter")
        interpreter = runtime.Interpreter(model_content=sys.stdin.buffer.read(), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], numpy.array(job["input"], numpy.float32))
        interpreter.invoke()
        values = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist()
        answer = {"values": values, "numpy": numpy.__version__, "from": runtime.__file__}
    except Exception as error:  # A runtime fails in any way, and the host wants to know which.
        answer = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
    sys.stdout.write("\n" + MARK + json.dumps(answer)[1:] + "\n")


if __name__ == "__main__":
    main()
