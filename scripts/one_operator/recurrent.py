"""Operators with a state, control flow, variables and what draws random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from scripts.one_operator.build import Node, OneOperator, Tensor
from scripts.one_operator.elementwise import Maker
from scripts.one_operator.tensors import constant, feature, result
from scripts.one_operator.weighted import weight_type, weights

_UNITS = 8


def _state(kind: str, shape: tuple[int, ...], scale: float = 0.0) -> Tensor:
    return Tensor(kind, shape, scales=(scale,) if scale else (), variable=True)


def _svdf(kind: str) -> OneOperator:
    options = schema.SVDFOptionsT()
    options.rank, options.fusedActivationFunction = 1, 1
    source = feature(kind.partition("x")[0], (1, 6))
    spatial = weights(weight_type(kind), (_UNITS, 6), None)
    ticks = 4
    if kind == "INT8":
        temporal = Tensor("INT16", (_UNITS, ticks), np.arange(_UNITS * ticks).reshape(_UNITS, ticks) * 9, (0.0005,))
        state = _state("INT16", (1, _UNITS * ticks), 0.001)
        bias = Tensor("INT32", (_UNITS,), np.arange(_UNITS), (0.0005 * 0.001,))
    else:
        temporal = weights(weight_type(kind), (_UNITS, ticks), None)
        state = _state("FLOAT32", (1, _UNITS * ticks))
        bias = Tensor("FLOAT32", (_UNITS,), np.linspace(-0.1, 0.1, _UNITS))
    target = result(source.type, (1, _UNITS))
    return OneOperator("SVDF", [source, spatial, temporal, bias, state], [target], options)


def _lstm(code: str, kind: str) -> OneOperator:
    """Four gates, no peepholes, no projection, no layer normalisation."""
    sequence = code == "UNIDIRECTIONAL_SEQUENCE_LSTM"
    options = schema.UnidirectionalSequenceLSTMOptionsT() if sequence else schema.LSTMOptionsT()
    options.fusedActivationFunction, options.cellClip = 4, 10.0  # 4 is TANH
    activation = kind.partition("x")[0]
    time = (3,) if sequence else ()
    source = feature(activation, (1, *time, 6))
    target = result(activation, (1, *time, _UNITS), scale=1 / 128 if activation == "INT8" else 1 / 32768)
    from_input = [weights(weight_type(kind), (_UNITS, 6), None) for _ in range(4)]
    from_output = [weights(weight_type(kind), (_UNITS, _UNITS), None) for _ in range(4)]
    if activation == "FLOAT32":
        biases = [Tensor("FLOAT32", (_UNITS,), np.linspace(-0.1, 0.1, _UNITS)) for _ in range(4)]
        states = [_state("FLOAT32", (1, _UNITS)), _state("FLOAT32", (1, _UNITS))]
        between: list[Tensor] = []
    else:
        number = "INT64" if activation == "INT16" else "INT32"
        scale = source.scales[0] * from_input[0].scales[0]
        biases = [Tensor(number, (_UNITS,), np.arange(_UNITS) * 9, (scale,)) for _ in range(4)]
        states = [_state(activation, (1, _UNITS), target.scales[0]), _state("INT16", (1, _UNITS), 2.0**-11)]
        between = [Tensor("INT16", (0,), scales=(2.0**-12,)) for _ in range(4)]
        between.append(Tensor(activation, (0,), scales=(target.scales[0],)))
    inputs = [source, *from_input, *from_output, None, None, None, *biases, None, None, *states]
    return OneOperator(code, inputs + [None] * 4, [target], options, between)


def _rnn(code: str, kind: str) -> OneOperator:
    sequence = code == "UNIDIRECTIONAL_SEQUENCE_RNN"
    options = schema.SequenceRNNOptionsT() if sequence else schema.RNNOptionsT()
    options.fusedActivationFunction = 1
    time = (3,) if sequence else ()
    inputs = [
        feature("FLOAT32", (1, *time, 6)),
        weights(weight_type(kind), (_UNITS, 6), None),
        weights(weight_type(kind), (_UNITS, _UNITS), None),
        Tensor("FLOAT32", (_UNITS,), np.linspace(-0.1, 0.1, _UNITS)),
        _state("FLOAT32", (1, _UNITS)),
    ]
    return OneOperator(code, inputs, [Tensor("FLOAT32", (1, *time, _UNITS))], options)


def _relu(kind: str) -> Node:
    return Node("RELU", [feature(kind)], [result(kind)])


def _if(_: str) -> OneOperator:
    options = schema.IfOptionsT()
    options.thenSubgraphIndex, options.elseSubgraphIndex = 1, 2
    branches = [_relu("FLOAT32")], [_relu("FLOAT32")]
    return OneOperator("IF", [feature("BOOL", ()), feature("FLOAT32")], [result("FLOAT32")], options, others=branches)


def _while(_: str) -> OneOperator:
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    number = (1,)
    test = Node("LESS", [feature("INT32", number), constant([20])], [Tensor("BOOL", number)])
    step = Node("ADD", [feature("INT32", number), constant([3])], [result("INT32", number)], schema.AddOptionsT())
    return OneOperator("WHILE", [feature("INT32", number)], [result("INT32", number)], options, others=([test], [step]))


def _variable(name: str = "v") -> tuple[Node, Tensor]:
    handle = Tensor("RESOURCE", ())
    options = schema.VarHandleOptionsT()
    options.container, options.sharedName = "", name
    return Node("VAR_HANDLE", [], [handle], options), handle


def _assign(kind: str) -> OneOperator:
    made, handle = _variable()
    return OneOperator("ASSIGN_VARIABLE", [handle, feature(kind, (4,))], [], before=[made])


def _read(kind: str) -> OneOperator:
    made, handle = _variable()
    values = feature(kind, (4,))
    filled = constant(np.arange(4), kind, like=values)
    assign = Node("ASSIGN_VARIABLE", [handle, filled], [])
    return OneOperator("READ_VARIABLE", [handle], [result(kind, (4,))], before=[made, assign])


def _var_handle(_: str) -> OneOperator:
    made, handle = _variable()
    filled = constant([1.0, 2.0], "FLOAT32")
    after = [
        Node("ASSIGN_VARIABLE", [handle, filled], []),
        Node("READ_VARIABLE", [handle], [Tensor("FLOAT32", (2,))]),
    ]
    return OneOperator("VAR_HANDLE", [], [handle], made.options, after=after)


def _call_once(_: str) -> OneOperator:
    options = schema.CallOnceOptionsT()
    options.initSubgraphIndex = 1
    made, handle = _variable()
    first = [made, Node("ASSIGN_VARIABLE", [handle, constant([1.0, 2.0], "FLOAT32")], [])]
    return OneOperator("CALL_ONCE", [], [], options, after=[_relu("FLOAT32")], others=(first,))


def _random(code: str, _: str) -> OneOperator:
    options = schema.RandomOptionsT()
    options.seed, options.seed2 = 1, 2
    return OneOperator(code, [constant([2, 3])], [Tensor("FLOAT32", (2, 3))], options)


def _rfft(_: str) -> OneOperator:
    return OneOperator("RFFT2D", [feature("FLOAT32", (1, 4, 8)), constant([4, 8])], [Tensor("COMPLEX64", (1, 4, 5))])


def _suppression(code: str, _: str) -> OneOperator:
    inputs = [
        feature("FLOAT32", (4, 4), positive=True),
        feature("FLOAT32", (4,), positive=True),
        constant(2),
        constant(0.5, "FLOAT32"),
        constant(0.1, "FLOAT32"),
    ]
    outputs = [Tensor("INT32", (2,)), Tensor("INT32", ())]
    if code.endswith("5"):
        inputs.append(constant(0.0, "FLOAT32"))
        outputs.insert(1, Tensor("FLOAT32", (2,)))
    return OneOperator(code, inputs, outputs)


OPERATORS: Mapping[str, tuple[tuple[str, ...], Maker]] = {
    "SVDF": (("FLOAT32", "INT8", "FLOAT32xINT8_PER_TENSOR"), _svdf),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (
        ("FLOAT32", "INT8", "INT16", "FLOAT32xINT8_PER_TENSOR"),
        partial(_lstm, "UNIDIRECTIONAL_SEQUENCE_LSTM"),
    ),
    "LSTM": (("FLOAT32", "INT8", "FLOAT32xINT8_PER_TENSOR"), partial(_lstm, "LSTM")),
    "RNN": (("FLOAT32", "FLOAT32xINT8_PER_TENSOR"), partial(_rnn, "RNN")),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (
        ("FLOAT32", "FLOAT32xINT8_PER_TENSOR"),
        partial(_rnn, "UNIDIRECTIONAL_SEQUENCE_RNN"),
    ),
    "IF": (("ANY",), _if),
    "WHILE": (("ANY",), _while),
    "VAR_HANDLE": (("ANY",), _var_handle),
    "CALL_ONCE": (("ANY",), _call_once),
    "ASSIGN_VARIABLE": (("FLOAT32", "INT8", "INT16", "INT32"), _assign),
    "READ_VARIABLE": (("FLOAT32", "INT8", "INT16", "INT32"), _read),
    "RANDOM_UNIFORM": (("FLOAT32",), partial(_random, "RANDOM_UNIFORM")),
    "RANDOM_STANDARD_NORMAL": (("FLOAT32",), partial(_random, "RANDOM_STANDARD_NORMAL")),
    "RFFT2D": (("FLOAT32",), _rfft),
    "NON_MAX_SUPPRESSION_V4": (("FLOAT32",), partial(_suppression, "NON_MAX_SUPPRESSION_V4")),
    "NON_MAX_SUPPRESSION_V5": (("FLOAT32",), partial(_suppression, "NON_MAX_SUPPRESSION_V5")),
}
