"""Every point that can be asked: operator -> types -> file."""

from __future__ import annotations

from collections.abc import Mapping

from edgecomp.tflite_schema import BUILTIN_OPERATORS
from scripts.one_operator import elementwise, layout, recurrent, weighted
from scripts.one_operator.build import OneOperator
from scripts.one_operator.elementwise import Maker
from scripts.one_operator.tensors import feature, words

MAKERS: Mapping[str, tuple[tuple[str, ...], Maker]] = (
    elementwise.OPERATORS | layout.OPERATORS | weighted.OPERATORS | recurrent.OPERATORS
)

# Numbers of the schema that no file ever holds.
_PLACEHOLDERS = ("CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES")


def operators() -> list[str]:
    """Every builtin operator of the schema, in its order."""
    return [code for code in BUILTIN_OPERATORS if code not in _PLACEHOLDERS]


def types(code: str) -> tuple[str, ...]:
    """The types that an operator is tried with; empty where no valid minimal file is known."""
    return MAKERS[code][0] if code in MAKERS else ()


def make(code: str, kind: str) -> OneOperator:
    """One point."""
    return MAKERS[code][1](kind)


def bare(code: str, version: int = 1, kind: str = "FLOAT32") -> OneOperator:
    """An operator without options on one tensor: enough to ask whether a runtime has heard of it."""
    return OneOperator(code, [feature(kind, (1, 4))], [feature(kind, (1, 4))], version=version)


# Custom operators that come with TFLM or LiteRT, or that converters write for other runtimes.
CUSTOMS = words(
    "CIRCULAR_BUFFER TFLM_DECODE TFLite_Detection_PostProcess ethos-u edgetpu-custom-op NumericVerify Mfcc "
    "AudioSpectrogram MaxPoolingWithArgmax2D MaxUnpooling2D SignalWindow SignalFftAutoScale SignalRfft SignalIrfft "
    "SignalEnergy SignalFilterBank SignalFilterBankSquareRoot SignalFilterBankSpectralSubtraction SignalFilterBankLog "
    "SignalPCAN SignalStacker SignalDelay SignalFramer SignalOverlapAdd"
)
