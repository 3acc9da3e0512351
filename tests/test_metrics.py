"""Scores against values by hand and by scikit-learn."""

import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score, top_k_accuracy_score

from edgecomp.errors import DataError, EdgecompError, UsageError
from edgecomp.metrics import agreement, estimate, load_metric, output_snr_db, paired_drop
from edgecomp.tensors import TensorSpec


def probabilities(count=300, classes=5, seed=0):
    logits = np.random.default_rng(seed).normal(size=(count, classes))
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def classes_of(count=300, classes=5, seed=1):
    return np.random.default_rng(seed).integers(classes, size=count)


def score(metric, labels, outputs):
    return load_metric(metric).score({"y": np.asarray(labels)}, {"y": np.asarray(outputs)})


def refused(call, *words, error=DataError):
    with pytest.raises(EdgecompError) as caught:
        call()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("metric", ["accuracy", "top2", "top4"])
def test_shares_of_right_answers_like_scikit_learn(metric):
    labels, outputs = classes_of(), probabilities()
    expected = (
        accuracy_score(labels, outputs.argmax(axis=1))
        if metric == "accuracy"
        else top_k_accuracy_score(labels, outputs, k=int(metric[3:]))
    )
    assert score(metric, labels, outputs) == pytest.approx(expected, abs=1e-12)


def test_auc_like_scikit_learn():
    labels, outputs = classes_of(), probabilities()
    expected = roc_auc_score(labels, outputs.astype(np.float64), multi_class="ovr", average="macro")
    # scikit-learn wants rows that sum to one; the scores themselves are the same.
    assert score("auc", labels, outputs) == pytest.approx(expected, abs=1e-6)


def test_binary_auc_like_scikit_learn_with_ties():
    rng = np.random.default_rng(3)
    labels = rng.integers(2, size=500)
    scores = np.round(rng.random(500) * 0.8 + labels * 0.2, 1)  # eleven values only: many ties
    expected = roc_auc_score(labels, scores)
    assert score("auc", labels, scores) == pytest.approx(expected, abs=1e-12)
    assert score("auc", labels, scores[:, np.newaxis]) == pytest.approx(expected, abs=1e-12)
    assert score("auc", labels, np.stack([1 - scores, scores], axis=1)) == pytest.approx(expected, abs=1e-12)
    assert score("auc", labels, 7 * scores - 3) == pytest.approx(expected, abs=1e-12)  # logits rank alike


def test_auc_by_hand():
    # Pairs (positive, negative): 0.9 beats both, 0.4 beats 0.2 and ties with 0.4: 3.5 of 4.
    assert score("auc", [1, 1, 0, 0], [0.9, 0.4, 0.4, 0.2]) == 0.875


def test_auc_of_classes_that_have_no_sample_are_left_out():
    labels, outputs = classes_of(classes=3), probabilities(classes=5)
    parts = [roc_auc_score(labels == number, outputs[:, number]) for number in range(3)]
    assert score("auc", labels, outputs) == pytest.approx(np.mean(parts), abs=1e-12)


def test_accuracy_of_one_sigmoid():
    for outputs in ([0.9, 0.5, 0.51, 0.1], [[0.9], [0.5], [0.51], [0.1]]):
        assert score("accuracy", [1, 1, 1, 1], outputs) == 0.5  # 0.5 itself is not above 0.5
        assert score("accuracy", [[1], [0], [1], [0]], outputs) == 1.0


def test_one_hot_and_one_column_are_the_same_labels():
    labels, outputs = classes_of(), probabilities()
    expected = score("accuracy", labels, outputs)
    assert score("accuracy", np.eye(5)[labels], outputs) == expected
    assert score("accuracy", labels[:, np.newaxis], outputs) == expected
    assert score("accuracy", labels.astype(np.float32), outputs) == expected


def test_of_equal_outputs_the_first_counts():
    assert score("accuracy", [0, 1], [[0.5, 0.5, 0.0]] * 2) == 0.5
    assert score("top2", [0, 1, 2], [[0.4, 0.3, 0.3]] * 3) == pytest.approx(2 / 3)
    assert score("top1", classes_of(), probabilities()) == score("accuracy", classes_of(), probabilities())


def test_positions_of_a_sample_count_by_their_share():
    outputs = np.zeros((2, 2, 2, 3))
    outputs[..., 1] = 1  # class 1 everywhere
    labels = np.array([[[1, 1], [1, 0]], [[0, 0], [0, 1]]])
    metric = load_metric("accuracy")
    assert metric.per_sample({"y": labels}, {"y": outputs}).tolist() == [0.75, 0.25]
    assert metric.score({"y": labels[..., np.newaxis]}, {"y": outputs}) == 0.5


def test_large_outputs_are_judged_in_pieces(monkeypatch):
    labels, outputs = classes_of(), probabilities()
    whole = [score(metric, labels, outputs) for metric in ("accuracy", "top2")]
    monkeypatch.setattr("edgecomp.metrics.metric._CHUNK_VALUES", 35)  # seven samples
    assert [score(metric, labels, outputs) for metric in ("accuracy", "top2")] == whole


def test_mean_errors_by_hand():
    labels, outputs = [[1.0, 2.0], [3.0, 4.0]], np.array([[1.0, 4.0], [0.0, 4.0]], np.float32)
    assert score("mse", labels, outputs) == (0 + 4 + 9 + 0) / 4
    assert score("mae", labels, outputs) == (0 + 2 + 3 + 0) / 4
    assert score("mse", [1, 2], [[1.0], [4.0]]) == 2  # a column meets plain numbers
    assert load_metric("mse").per_sample({"y": np.array(labels)}, {"y": outputs}).tolist() == [2.0, 4.5]


def test_what_differences_mean():
    assert [(m.higher_is_better, m.is_ratio) for m in map(load_metric, ("accuracy", "top5", "auc", "mse", "mae"))] == [
        *[(True, True)] * 3,
        *[(False, False)] * 2,
    ]


def test_several_outputs_count_equally():
    labels = {"a": np.array([0, 1]), "b": np.array([1, 1])}
    outputs = {"a": np.eye(2), "b": np.array([[0.0, 1.0], [1.0, 0.0]]), "unlabelled": np.zeros((2, 9))}
    metric = load_metric("accuracy")
    assert metric.scores(labels, outputs) == {"a": 1.0, "b": 0.5}
    assert metric.score(labels, outputs) == 0.75
    assert metric.per_sample(labels, outputs).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("metric", "labels", "outputs", "words"),
    [
        ("accuracy", [0.5, 1.0], np.eye(2), ("needs class numbers", "got 0.5", "mse or mae")),
        ("accuracy", [0, 2], np.eye(2), ("0 to 1; got 2",)),
        ("accuracy", [0, -1], np.eye(2), ("got -1",)),
        ("top2", [0, 5], np.ones((2, 5)), ("0 to 4; got 5",)),
        ("auc", [0, 3], [0.1, 0.2], ("0 to 1; got 3",)),
        ("accuracy", [[0.2, 0.8], [1, 0]], np.eye(2), ("not one-hot",)),
        ("accuracy", np.zeros((2, 3)), np.eye(2), ("one per position", "(3)")),
        ("accuracy", [0, 1], [[-3.0], [4.0]], ("from -3 to 4", "sigmoid")),
        ("accuracy", [0, 1, 1], np.eye(2), ("3 labels for 2 outputs",)),
        ("accuracy", np.zeros(0, int), np.zeros((0, 2)), ("at least one sample",)),
        ("accuracy", [0, 1], [[0.0, np.nan], [1.0, 0.0]], ("NaN for 1 of 2 samples",)),
        ("mse", [0.0, 1.0], [[0.0], [np.nan]], ("NaN for 1 of 2 samples",)),
        ("mse", [0.0, 1.0], [[0.0], [np.inf]], ("gives inf",)),
        ("mse", [0, 1], np.eye(2), ("shape of the output", "(2)", "accuracy for class numbers")),
        ("auc", [1, 1], np.eye(2), ("at least two classes", "all 2 labels")),
        ("top2", [0, 1], np.eye(2), ("more than 2 classes", "always be 1")),
        ("top2", [0, 1], [0.1, 0.2], ("more than 2 classes",)),
    ],
)
def test_what_cannot_be_scored(metric, labels, outputs, words):
    refused(lambda: score(metric, labels, outputs), *words)


def test_labels_of_an_unknown_output_or_none():
    metric = load_metric("accuracy")
    refused(lambda: metric.score({"yy": np.zeros(2)}, {"y": np.eye(2)}), "'yy'", "Did you mean 'y'?")
    refused(lambda: metric.score({}, {"y": np.eye(2)}), "needs labels")


@pytest.mark.parametrize(
    ("metric", "labels", "shape", "word"),
    [
        ("accuracy", [0.5, 1.0], (1, 2), "got 0.5"),
        ("accuracy", [0, 7], (1, 2), "got 7"),
        ("accuracy", [0, 7], (None, None), None),
        ("accuracy", [0, 1], (1, 1), None),
        ("accuracy", [-1, 1], (1, 1), "got -1"),
        ("top3", [0, 1], (1, 3), "more than 3 classes"),
        ("auc", [1, 1], (1, 2), "two classes"),
        ("mse", [0.5, 1.0], (1, 1), None),
        ("mse", [0.5, 1.0], (1, 4), "shape of the output"),
    ],
)
def test_labels_are_checked_before_any_model_runs(metric, labels, shape, word):
    def check():
        load_metric(metric).check({"y": np.array(labels)}, [TensorSpec("y", shape, "float32")])

    if word is None:
        check()
    else:
        refused(check, word)


def test_unknown_metrics():
    refused(lambda: load_metric("accurracy"), "no such metric", "Did you mean 'accuracy'?", error=UsageError)
    refused(lambda: load_metric("top0"), "no such metric", error=UsageError)
    refused(lambda: load_metric("nowhere_at_all:f"), "importing nowhere_at_all failed", error=UsageError)


# ---- the user's own


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write functions into a module of the current folder and load one as a metric."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(code, name="metric"):
        sys.modules.pop("my_metric", None)
        (tmp_path / "my_metric.py").write_text("import numpy as np\n" + code)
        return load_metric(f"my_metric:{name}")

    yield load
    sys.modules.pop("my_metric", None)


def test_an_own_metric_gets_arrays_for_one_output(own):
    metric = own(
        "def metric(labels, outputs):\n    return np.abs(labels - outputs).max()\nmetric.higher_is_better = False\n"
    )
    labels, outputs = {"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, 5.0])}
    assert metric.score(labels, outputs) == 3.0
    assert metric.scores(labels, outputs) == {"y": 3.0}
    assert metric.per_sample(labels, outputs) is None
    assert (metric.name, metric.higher_is_better, metric.is_ratio) == ("my_metric:metric", False, False)
    drop = paired_drop(metric, labels, outputs, {"y": labels["y"]}, seed=0)
    assert drop.value == 3.0  # worse is positive, also where smaller is better


def test_an_own_metric_gets_dicts_for_several_outputs(own):
    metric = own("def metric(labels, outputs):\n    return len(labels) + 10 * len(outputs)\n")
    labels, outputs = {"a": np.zeros(2)}, {"a": np.zeros(2), "b": np.zeros(2)}
    assert metric.score(labels, outputs) == 21
    assert metric.scores(labels, outputs) == {}


def test_an_own_metric_per_sample(own):
    code = (
        "def metric(labels, outputs):\n    return labels * outputs\nmetric.per_sample = True\nmetric.is_ratio = True\n"
    )
    metric = own(code)
    labels, outputs = {"y": np.array([1.0, 2.0])}, {"y": np.array([3.0, 5.0])}
    assert metric.per_sample(labels, outputs).tolist() == [3.0, 10.0]
    assert metric.score(labels, outputs) == 6.5
    assert metric.is_ratio


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return float('nan')", ("gives nan",)),
        ("return [1, 2]", ("must return one number, got list", "per_sample")),
        ("return None", ("got NoneType",)),
        ("raise IndexError('out')", ("raised IndexError: out",)),
    ],
)
def test_wrong_own_metrics(own, body, words):
    metric = own(f"def metric(labels, outputs):\n    {body}\n")
    data = {"y": np.zeros(3)}
    refused(lambda: metric.score(data, data), *words)
    refused(lambda: estimate(metric, data, data, seed=0), *words)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("return 1.0", "3 values"),
        ("return ['a'] * 3", "must return numbers"),
        ("return [1, np.nan, 1]", "for sample 1"),
    ],
)
def test_wrong_own_metrics_per_sample(own, body, word):
    metric = own(f"def metric(labels, outputs):\n    {body}\nmetric.per_sample = True\n")
    data = {"y": np.zeros(3)}
    refused(lambda: metric.score(data, data), word)


# ---- beside the float model


def test_agreement_counts_equal_answers():
    reference, candidate = probabilities(), probabilities().copy()
    candidate[:30] = np.roll(candidate[:30], 1, axis=1)  # another largest class
    found = agreement({"y": candidate}, {"y": reference}, seed=0)
    assert found.value == 0.9
    assert found.low < 0.9 < found.high


def test_agreement_of_one_score():
    found = agreement({"y": np.array([[0.6], [0.4]])}, {"y": np.array([[0.9], [0.6]])}, seed=0)
    assert found.value == 0.5
    logits = agreement({"y": np.array([[3.0], [0.4]])}, {"y": np.array([[9.0], [-6.0]])}, seed=0, class_outputs=["y"])
    assert logits.value == 0.5  # above 0 is a yes


def test_agreement_needs_classes():
    regression = {"y": np.array([[3.0, 9.0], [-1.0, 4.0]])}
    assert agreement(regression, regression, seed=0) is None
    assert agreement(regression, regression, seed=0, class_outputs=["y"]).value == 1.0  # logits of two classes
    assert agreement({"y": probabilities()}, {"y": probabilities()}, seed=0, class_outputs=[]) is None


def test_agreement_of_several_outputs_is_their_mean():
    reference = {"a": probabilities(seed=1), "b": probabilities(seed=2), "dose": np.full((300, 2), 40.0)}
    candidate = reference | {"b": np.roll(reference["b"], 1, axis=1)}
    assert agreement(candidate, reference, seed=0).value == 0.5


def test_snr_by_hand():
    reference = {"y": np.array([[3.0, 4.0]])}
    assert output_snr_db({"y": np.array([[3.0, 4.5]])}, reference) == pytest.approx(20.0)  # 25 / 0.25
    assert output_snr_db(reference, reference) == np.inf
    assert output_snr_db(reference, {"y": np.zeros((1, 2))}) == -np.inf
    two = reference | {"z": np.array([[10.0]])}
    assert output_snr_db(two | {"z": np.array([[9.0]])}, two) == pytest.approx(20.0)  # the worst of inf and 20


def test_outputs_that_are_no_pair():
    one, other = {"y": np.zeros((2, 3))}, {"y": np.zeros((3, 3))}
    for compare in (lambda a, b: agreement(a, b, 0), output_snr_db):
        refused(lambda compare=compare: compare(one, other), "(2, 3)", "(3, 3)")
        refused(lambda compare=compare: compare(one, {"z": one["y"]}), "are y", "z")
        refused(lambda compare=compare: compare({"y": np.full((2, 3), np.nan)}, one), "NaN for 2 of 2")
