"""What runs on a board, as a program on this machine: the model in TensorFlow Lite Micro, messages on a pty.

    python board_firmware.py FOLDER [FAULT]      creates FOLDER/port, a link to the pty that it speaks on

It stands in for the hardware alone: the model runs in TFLM, golden inputs come from the bundle's golden.npz, times are
those of this machine. A line "reset" on FOLDER/reset (a FIFO) is the reset button. FAULT is one of those in `main`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import tty
from pathlib import Path

import numpy as np
from tflite_micro import runtime

INFERENCES = 20


def messages(folder: Path, fault: str):
    """What the firmware says in a round, in order."""
    model = (folder / "model.tflite").read_bytes()
    digest = "0" * 64 if fault == "other model" else hashlib.sha256(model).hexdigest()
    core = "cortex-m0+" if fault == "other core" else "cortex-m4"
    hello = {
        "type": "hello", "model_sha256": digest, "core": core, "runtime": "tflite-micro",
        "runtime_version": os.environ["TFLM_VERSION"], "kernels": "reference", "clock_hz": 120_000_000,
    }  # fmt: skip
    yield hello
    if fault == "gives up":
        yield {"type": "error", "message": "AllocateTensors() failed\x1b[31m"}
        return
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=1 << 20)
    with np.load(folder / "golden.npz") as arrays:
        inputs = arrays["input_0"]
    for number, sample in enumerate(inputs[:8]):
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        values = interpreter.get_output(0).ravel().tolist()
        if fault == "wrong outputs":
            values = [-value for value in values]
        yield {"type": "golden", "sample": number, "outputs": [values]}
    for _ in range(INFERENCES):
        start = time.perf_counter()
        interpreter.invoke()
        seconds = time.perf_counter() - start
        yield {"type": "time", "cycles": int(seconds * 120_000_000) + 1}
    if fault != "never done":
        yield {"type": "done"}


def main(folder: Path, fault: str) -> None:
    board, port = os.openpty()
    tty.setraw(port)
    (folder / "port").symlink_to(os.ttyname(port))
    while True:
        with (folder / "reset").open() as button:
            button.read()
        os.write(board, b"\x00\xffboot: clock 120 MHz\r\n")
        if fault == "nonsense":
            os.write(board, b'{"edgecomp_board": 1, nonsense\n')
        if fault == "silent":
            continue
        for message in messages(folder, fault):
            text = json.dumps({"edgecomp_board": 1, **message})
            data = text.encode() + b"\r\n"
            while data:
                data = data[os.write(board, data) :]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
