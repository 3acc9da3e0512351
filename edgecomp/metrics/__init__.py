"""How good outputs are: metrics, their intervals, and the comparison with the float model.

    metric = load_metric("accuracy")
    score = estimate(metric, labels, outputs, seed=0)                       # Estimate(value, low, high)
    drop = paired_drop(metric, labels, candidate_outputs, float_outputs, seed=0)

Labels and outputs are dicts of arrays by output name; outputs are real values (dequantized).
"""

from __future__ import annotations

import re

from edgecomp.data.user_code import is_function_spec
from edgecomp.errors import UsageError, did_you_mean
from edgecomp.metrics.agreement import agreement, looks_memorised, output_snr_db
from edgecomp.metrics.bootstrap import Estimate, estimate, paired_drop
from edgecomp.metrics.classification import Accuracy, Auc, TopK
from edgecomp.metrics.metric import Metric
from edgecomp.metrics.regression import Mae, Mse
from edgecomp.metrics.user import UserMetric

__all__ = [
    "Estimate",
    "Metric",
    "agreement",
    "estimate",
    "load_metric",
    "looks_memorised",
    "output_snr_db",
    "paired_drop",
]

_BUILT_IN: dict[str, type[Metric]] = {metric.name: metric for metric in (Accuracy, Auc, Mae, Mse)}


def load_metric(spec: str) -> Metric:
    """The metric that the user named: accuracy, auc, mse, mae, top<k> such as top5, or module:function.

    Raises:
        UsageError: An unknown name (with the closest one), or a function that cannot be imported.
    """
    if spec in _BUILT_IN:
        return _BUILT_IN[spec]()
    top = re.fullmatch(r"top([1-9][0-9]{0,5})", spec)
    if top is not None:
        return TopK(int(top[1]))
    if is_function_spec(spec):
        return UserMetric(spec)
    raise UsageError(
        f"--metric {spec}: there is no such metric.", hint=did_you_mean(spec, [*_BUILT_IN, "top5", "module:function"])
    )
