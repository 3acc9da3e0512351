"""Which of several models is best for a device, by what their candidates were chosen by, where that can be said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecomp.data.user_code import is_function_spec
from edgecomp.matrix_result import Best, chosen_of, latency_of, name_of
from edgecomp.metrics import load_metric
from edgecomp.objective import TIE_RATIO, Objective
from edgecomp.results import Accuracy, CandidateResult, EstimatedEnergy, EstimatedLatency, FitResult, Latency, Mode
from edgecomp.units import format_bytes


@dataclass(frozen=True)
class _Figure:
    """What an objective looks at.

    Attributes:
        low, high: Its interval; both are the value where it has none.
        text: For people, with unit and mode.
    """

    value: float
    low: float
    high: float
    mode: Mode | None
    text: str


@dataclass(frozen=True)
class _Entry:
    """A model that fits the device."""

    fit: FitResult
    objective: str | None
    candidate: CandidateResult

    @property
    def name(self) -> str:
        return name_of(self.fit.model.path)

    @property
    def data(self) -> tuple[object, ...]:
        """What scores can be compared within."""
        return self.fit.metric, self.fit.data["sha256"], self.fit.data["splits"].get("test")


def best_of(fits: Sequence[FitResult], device: str) -> Best:
    """Which of the models that fit a device is the best one there."""
    entries = [entry for fit in fits if (entry := _entry(fit, device)) is not None]
    objective = entries[0].objective if entries else None
    if len(entries) < 2:
        text = f"{entries[0].name}, the only one that fits" if entries else "no model fits"
        return Best(device=device, objective=objective, models=_paths(entries), text=text)
    if (why := _why_not_compared(entries)) is not None:
        return Best(device=device, objective=objective, models=(), text=f"not compared: {why}")
    if objective == Objective.ACCURACY_DROP:
        winners, text = _by_score(entries)
        return Best(device=device, objective=objective, models=_paths(winners), text=text)
    winners, text = _by_figure(entries, Objective(str(objective)))
    above = _scoring_above(winners, [entry for entry in entries if entry not in winners])
    if above:
        verb = "scores" if len(above) == 1 else "score"
        text += f". {_names(above)} {verb} higher: {_scores(above)} against {_scores(winners)}"
    return Best(device=device, objective=objective, models=_paths(winners), higher_score=_paths(above), text=text)


def _entry(fit: FitResult, device: str) -> _Entry | None:
    found = next(item for item in fit.devices if item.device == device)
    chosen = chosen_of(found)
    return None if chosen is None else _Entry(fit, found.objective, chosen)


def _why_not_compared(entries: Sequence[_Entry]) -> str | None:
    """One clause, or None where the models can be compared."""
    first = entries[0]
    for other in entries[1:]:
        if other.data != first.data:
            return f"{first.name} and {other.name} were not scored on the same test data"
        if other.objective != first.objective:
            return (
                f"candidates of {first.name} were chosen by {_words(first.objective)}, "
                f"those of {other.name} by {_words(other.objective)}"
            )
    what, modes = _words(first.objective), []
    if first.objective == Objective.ACCURACY_DROP:
        if any(entry.candidate.accuracy is None for entry in entries):
            return "drops are from each model's own answers, and without labels there are no scores"
        if _is_higher_better(first.fit.metric) is None:
            return (
                f"drops are from each model's own scores, and whether more of {first.fit.metric} is better is unknown"
            )
        return None
    for entry in entries:
        figure = _figure(entry.candidate, Objective(str(first.objective)))
        if figure is None:
            return f"the {what} of {entry.name} is not known"
        modes.append(figure.mode)
        if figure.mode != modes[0]:
            return f"the {what} of {first.name} is {modes[0]}, that of {entry.name} {figure.mode}"
    return None


def _by_figure(entries: Sequence[_Entry], objective: Objective) -> tuple[list[_Entry], str]:
    """Those with the least of the objective, and the sentence that says so."""
    known = [(entry, figure) for entry in entries if (figure := _figure(entry.candidate, objective)) is not None]
    known.sort(key=lambda pair: pair[1].value)
    least = known[0][1]
    winners = [pair for pair in known if pair[1].value - least.value < TIE_RATIO * pair[1].value or pair[1] is least]
    texts = ", ".join(figure.text for _, figure in winners)
    names = _names([entry for entry, _ in winners])
    if len(winners) > 1:
        text = f"{names} are equal within {TIE_RATIO:.0%}: {objective.replace('_', ' ')} {texts}"
    else:
        text = f"{names} has the least {objective.replace('_', ' ')}: {texts}"
    if len(winners) < len(known):
        entry, figure = known[len(winners)]
        text += f"; next is {entry.name} with {figure.text}"
        if figure.low < figure.value and figure.low <= winners[-1][1].high:
            text += ", and their intervals overlap"
    return [entry for entry, _ in winners], text


def _by_score(entries: Sequence[_Entry]) -> tuple[list[_Entry], str]:
    """Those with the best score on test. Drops say nothing here: each is one from the model's own float scores."""
    sign = 1 if _is_higher_better(entries[0].fit.metric) else -1
    ranked = sorted(entries, key=lambda entry: -sign * _score(entry).value)
    winners = [entry for entry in ranked if not _is_above(ranked[0], entry)]
    metric = entries[0].fit.metric
    if len(winners) > 1:
        return winners, f"{_names(winners)} are equal: {metric} on test {_scores(winners)}, intervals overlap"
    text = f"{winners[0].name} has the best {metric} on test: {_scores(winners)}"
    return winners, f"{text}; next is {ranked[1].name} with {_scores([ranked[1]])}"


def _scoring_above(winners: Sequence[_Entry], others: Sequence[_Entry]) -> list[_Entry]:
    """Of the others those whose whole interval on test is better than that of every winner."""
    if any(entry.candidate.accuracy is None for entry in (*winners, *others)):
        return []
    return [entry for entry in others if all(_is_above(entry, winner) for winner in winners)]


def _is_above(first: _Entry, second: _Entry) -> bool:
    """Whether the first scores better on test by more than chance: their intervals do not overlap."""
    ours, theirs, is_higher_better = _score(first), _score(second), _is_higher_better(first.fit.metric)
    if is_higher_better is None:
        return False
    return ours.low > theirs.high if is_higher_better else ours.high < theirs.low


def _is_higher_better(metric: str) -> bool | None:
    """None for a function of the user's: only workers load those."""
    return None if is_function_spec(metric) else load_metric(metric).higher_is_better


def _score(entry: _Entry) -> Accuracy:
    if entry.candidate.accuracy is None:
        raise ValueError(f"{entry.name} has no score")
    return entry.candidate.accuracy


def _figure(candidate: CandidateResult, objective: Objective) -> _Figure | None:
    if objective is Objective.LATENCY:
        return _with_interval(latency_of(candidate), "ms")
    if objective is Objective.ENERGY:
        return _with_interval(candidate.energy_mj, "mJ")
    size, mode = (
        (candidate.model_bytes, None)
        if objective is Objective.SIZE
        else (candidate.ram_bytes, candidate.arena_mode)
    )  # fmt: skip
    if size is None:
        return None
    return _Figure(size, size, size, mode, f"{format_bytes(size)} {mode or ''}".strip())


def _with_interval(found: Latency | EstimatedLatency | EstimatedEnergy | None, unit: str) -> _Figure | None:
    if found is None:
        return None
    return _Figure(found.value, found.low, found.high, found.mode, f"{found.value:.4g} {unit} {found.mode}")


def _words(objective: str | None) -> str:
    return str(objective).replace("_", " ")


def _paths(entries: Sequence[_Entry]) -> tuple[str, ...]:
    return tuple(entry.fit.model.path for entry in entries)


def _names(entries: Sequence[_Entry]) -> str:
    names = [entry.name for entry in entries]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _scores(entries: Sequence[_Entry]) -> str:
    scores = [_score(entry) for entry in entries]
    return ", ".join(f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for score in scores)
