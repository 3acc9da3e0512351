"""`edgecomp fit` as a user calls it, and what its result is held against."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

EDGECOMP = [sys.executable, "-m", "edgecomp"]


def run(folder, *arguments, timeout=300):
    return subprocess.run(
        [*EDGECOMP, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )


def fit(folder, *arguments):
    """`edgecomp fit ... --json`: the exit code and the one object on stdout."""
    done = run(folder, "fit", *arguments, "--json")
    try:
        body = json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"stdout is no JSON object:\n{done.stdout}\n{done.stderr}")
    assert "Traceback" not in done.stderr
    return done.returncode, body


def chosen_of(body, device):
    result = next(item for item in body["devices"] if item["device"] == device)
    return next(item for item in result["candidates"] if item["name"] == result["chosen"])


def score_in_litert(model, x, y):
    """Accuracy by the plain interpreter loop of the LiteRT documentation: the reference for our own evaluation."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model))
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = source["quantization"]
    answers = []
    for sample in x.astype(np.float32):
        if scale:
            limits = np.iinfo(source["dtype"])
            sample = np.clip(np.round(sample / scale + zero_point), limits.min, limits.max)
        interpreter.set_tensor(source["index"], sample[np.newaxis].astype(source["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(sink["index"])[0].argmax())
    return float(np.mean(np.array(answers) == y))
