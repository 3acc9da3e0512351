"""Options that commands share, and quantities with units as their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from click.core import ParameterSource

from edgecomp.errors import UsageError
from edgecomp.objective import Objective
from edgecomp.training.settings import TrainingSettings
from edgecomp.units import Drop, parse_bytes, parse_drop, parse_mj, parse_ms, parse_seconds, parse_share

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
DURATION = Quantity[float]("duration", parse_seconds)
DROP = Quantity[Drop]("drop", parse_drop)
ENERGY = Quantity[float]("energy", parse_mj)
SHARE = Quantity[float]("share", parse_share)


def _channels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f'expected numbers with commas between, like "0.5" or "1,2,3", got {text!r}.') from None


CHANNELS = Quantity[tuple[float, ...]]("number[,number...]", _channels)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")


def together(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order in the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_options = together(
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
model_options = together(
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
limit_options = together(
    [
        click.option(
            "--max-accuracy-drop",
            type=DROP,
            help='Below the float model: "1pp" or "2%". Default: the profile\'s, unless --min-accuracy is given.',
        ),
        click.option(
            "--min-accuracy", type=float, help="Least score of the metric: 0.85. For an error (mse, mae) the largest."
        ),
        click.option("--max-flips", type=SHARE, help='Answers that may differ from the float model\'s: "2%" or 0.02.'),
        click.option(
            "--confident", is_flag=True, help="Let the bound of the 95 % interval decide, not the point estimate."
        ),
        click.option("--max-model-size", type=SIZE, help='Limit for the model file in flash: "96KiB".'),
        click.option("--max-ram", type=SIZE, help='Limit for tensors in RAM: "64KiB".'),
        click.option(
            "--max-latency", type=TIME, help='Limit for one inference: "20ms". Measured with --host, else estimated.'
        ),
        click.option(
            "--max-energy", type=ENERGY, help='Limit for one inference: "5mJ". Power of the profile times latency.'
        ),
        click.option(
            "--minimize",
            type=click.Choice([item.replace("_", "-") for item in Objective]),
            callback=lambda _context, _parameter, value: value and Objective(value.replace("-", "_")),
            help="Of those that meet every limit: the one with the least of it. Default: latency.",
        ),
    ]
)
connection_options = together(
    [
        click.option("--identity", type=click.Path(path_type=Path), help="Private key, the only one to offer."),
        click.option(
            "--known-hosts", type=click.Path(path_type=Path), help="The only file of trusted host keys. Default: SSH's."
        ),
        click.option(
            "--accept-new-host-key",
            is_flag=True,
            help="Trust a host whose key is unknown: say its fingerprint, add it to known_hosts. Never a changed key.",
        ),
        click.option(
            "--connect-timeout",
            "connect_timeout_s",
            type=DURATION,
            default="15s",
            show_default=True,
            help="For connection and login together.",
        ),
    ]
)
config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Options in TOML. Default: edgecomp.toml next to MODEL."
)


def typed_names() -> frozenset[str]:
    """Parameters of the running command that the user gave, as opposed to defaults."""
    context = click.get_current_context()
    given = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.PROMPT)
    return frozenset(name for name in context.params if context.get_parameter_source(name) in given)


_SET = TrainingSettings()
training_options = together(
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


def search_options(effort: str) -> Callable[[Command], Command]:
    """How long is searched, and with what; `effort` where nobody says."""
    return together(
        [
            click.option(
                "--effort",
                default=effort,
                show_default=True,
                type=click.Choice(("quick", "standard", "thorough")),
                help="quick: nothing is trained. standard: a few compressed models are. thorough: many more.",
            ),
            click.option(
                "--time-limit", type=DURATION, help='No training is begun that would end after it: "25m", "2h".'
            ),
            click.option(
                "--unlabelled", help="More inputs to train with, as --data; the float model answers for them."
            ),
            click.option(
                "--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Trainings at a time."
            ),
        ]
    )
