"""Options that commands share, and quantities with units as their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import click

from edgecomp.errors import UsageError
from edgecomp.training.settings import TrainingSettings
from edgecomp.units import Drop, parse_bytes, parse_drop, parse_ms

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Quantity(click.ParamType, Generic[T]):
    """A number with a unit: commands receive the plain number."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Parse text; a default that is no text passes through."""
        if not isinstance(value, str):
            passed: T = value
            return passed
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


SIZE = Quantity[int]("size", parse_bytes)
TIME = Quantity[float]("time", parse_ms)
DROP = Quantity[Drop]("drop", parse_drop)


def _channels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f'expected numbers with commas between, like "0.5" or "1,2,3", got {text!r}.') from None


CHANNELS = Quantity[tuple[float, ...]]("number[,number...]", _channels)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")


def _together(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order in the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_options = _together(
    [
        click.option("--mean", type=CHANNELS, help="Preprocessing (x - mean) / std: one number, or one per channel."),
        click.option("--std", type=CHANNELS, help="See --mean."),
        click.option("--image-size", help="HEIGHTxWIDTH that every image of a folder is resized to."),
        click.option(
            "--metric", default="accuracy", show_default=True, help="accuracy, topK, auc, mse, mae, module:function."
        ),
        click.option(
            "--calibration-samples", default=200, show_default=True, type=click.IntRange(1), help="From train."
        ),
        click.option("--group-key", help="Array whose equal values must stay on one side of the split, e.g. subject."),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of every draw and shuffle."),
    ]
)
model_options = _together(
    [
        click.option(
            "--trust-model-code", is_flag=True, help="Run Python code that the model file holds (Lambda layers)."
        ),
        click.option(
            "--custom-objects",
            metavar="MODULE[:FUNCTION]",
            help="Python module with the model's own classes, or a function that returns them by name.",
        ),
    ]
)
_SET = TrainingSettings()
training_options = _together(
    [
        click.option("--epochs", default=_SET.epochs, show_default=True, type=int, help="Of every technique."),
        click.option("--batch-size", default=_SET.batch_size, show_default=True, type=int, help="Samples a step."),
        click.option(
            "--learning-rate",
            default=_SET.learning_rate,
            show_default=True,
            type=float,
            help="Falls to 1/100.",
        ),
        click.option("--patience", type=int, help="Stop after so many epochs without a lower validation loss."),
        click.option("--augment", "augment", multiple=True, help="flip, shift, noise; repeatable."),
        click.option(
            "--loss",
            default=_SET.loss,
            show_default=True,
            help="auto, crossentropy, mse, reconstruction, module:function.",
        ),
        click.option(
            "--distill-weight",
            default=_SET.distill_weight,
            show_default=True,
            type=float,
            help="Share of the teacher.",
        ),
        click.option("--temperature", default=_SET.temperature, show_default=True, type=float, help="Of the teacher."),
        click.option(
            "--feature-layer", "feature_layers", multiple=True, help="Compare its output with the teacher's, too."
        ),
        click.option(
            "--feature-loss",
            default=_SET.feature_loss,
            show_default=True,
            type=click.Choice(("mse", "cosine")),
            help="How.",
        ),
        click.option("--freeze-batch-norm", is_flag=True, help="Keep the statistics of batch normalization."),
    ]
)
