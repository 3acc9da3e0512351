"""What a fit found, as --json prints it; docs/fit-result.schema.json is the JSON Schema of `FitResult`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["measured", "simulated", "estimated"]
CandidateStatus = Literal["chosen", "beaten", "rejected", "failed", "skipped"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Model):
    """A value with its 95 % interval (bootstrap over samples)."""

    value: float
    low: float
    high: float


class Accuracy(Interval):
    """A score on one split of the data, computed from the candidate's very bytes."""

    mode: Mode
    split: Literal["validation", "test"]
    samples: int
    kernels: str = Field(description="Kernel family that computed the outputs, on this machine.")


class Latency(Interval):
    """Milliseconds of one inference: the median of the raw samples."""

    mode: Mode
    p90: float
    on: str = Field(description="The machine, and whether it is the device of the profile.")
    is_profile_device: bool
    golden_ok: bool = Field(description="Whether the outputs on that machine were the golden ones.")
    verdict: str = Field(description="`valid`, or why the timing cannot be trusted (docs/bench.md).")
    reasons: tuple[str, ...] = Field(description="All that speaks against it.")
    num_threads: int
    runs: int

    @property
    def is_trusted(self) -> bool:
        """Whether it can be held against the device's latency limit."""
        return self.verdict == "valid"


class EstimatedLatency(_Model):
    """Milliseconds of one inference that nobody has timed, with a 90 % interval (docs/cost-model.md)."""

    value: float
    low: float
    high: float
    family: str = Field(description="Family of kernels whose constants were used.")
    mode: Literal["estimated"] = "estimated"


class EstimatedEnergy(_Model):
    """Millijoules of one inference: the profile's active power times the measured latency, else the estimated one."""

    value: float
    low: float
    high: float
    mode: Literal["estimated"] = "estimated"


class TflmCheck(_Model):
    """The candidate in the tflite-micro interpreter beside LiteRT's reference kernels, on the same real inputs."""

    samples: int
    max_difference_lsb: float = Field(description="Largest output difference, in steps of the output's scale.")
    argmax_agreement: float | None = Field(description="Share of samples with the same answer; null if no classes.")


class BrokenLimit(_Model):
    """A limit that the candidate breaks, and by how much."""

    limit: str
    value: float
    allowed: float
    unit: str
    text: str


class Flips(Interval):
    """Share of test samples that are answered otherwise than by the float model; Wilson's interval."""

    samples: int
    worse: Interval | None = Field(description="Right before, wrong now; null without labels.")
    better: Interval | None = Field(description="Wrong before, right now; null without labels.")


class WorstClass(_Model):
    """The class whose accuracy on test fell most: the largest drop of `compared` classes, chance included."""

    output: str
    index: int
    name: str | None
    samples: int
    accuracy: float
    float_accuracy: float
    drop_pp: Interval = Field(description="Float model minus candidate in percentage points, of this class by itself.")
    compared: int = Field(description="Classes with at least 20 samples.")


class Condition(_Model):
    """Candidate and float model on the same inputs, clean or corrupted."""

    name: str = Field(description="clean, noise, blur, brightness, jpeg or gain.")
    strength: str | None = Field(description="How strong the corruption is; null for clean.")
    score: float | None = Field(description="The candidate's, by the metric of the fit; null without labels.")
    float_score: float | None
    accuracy_drop_pp: Interval | None = Field(description="As in the candidate; paired.")
    score_drop: Interval | None = Field(description="As in the candidate; paired.")
    agreement: Interval | None = Field(description="Share of samples answered as the float model does.")
    output_snr_db: float | None = Field(description="Against the float outputs; null if they are equal.")


class Robustness(_Model):
    """What the average hides (docs/robustness.md)."""

    mode: Mode
    flips: Flips | None = Field(description="Null where no output gives classes.")
    worst_class: WorstClass | None = Field(description="Null without labels of classes, or with too few of each.")
    samples: int = Field(description="Test samples that the conditions were tried on.")
    kernels: str = Field(description="Kernel family of the candidate under the conditions, on this machine.")
    float_kernels: str
    conditions: tuple[Condition, ...]


class RepairTrial(_Model):
    """One form of a candidate beside the float model."""

    name: str = Field(description="plain, or what was done: equalized, biases corrected, ranges chosen.")
    snr_db: float | None = Field(description="Before a final softmax or logistic function; null if they are equal.")
    output_snr_db: float | None = Field(description="Of the outputs; null if they are equal.")


class Repair(_Model):
    """How a candidate was repaired without labels (docs/repair.md)."""

    samples: int = Field(description="Calibration samples that judged; it was tuned on others.")
    trials: tuple[RepairTrial, ...] = Field(description="Plain quantization first.")
    ranges: dict[str, str] = Field(description="Tensor -> how its range was chosen, where it is another one.")
    notes: tuple[str, ...] = Field(description="What was not done, and why.")


class RecipeStepReport(_Model):
    """One technique of a recipe."""

    technique: str
    options: dict[str, Any] = Field(description="As they were chosen; the others have their defaults.")
    changes: tuple[str, ...] = Field(default=(), description="What it did, by layer.")
    best_epoch: int | None = Field(
        default=None,
        description="Whose weights were kept, from 1; 0: those before it, no epoch was better; null for a preview.",
    )


class RecipeReport(_Model):
    """How the model of a candidate was compressed before it was quantized."""

    stage: Literal["preview", "short", "full"] = Field(description="Not trained, trained for a few epochs, or in full.")
    steps: tuple[RecipeStepReport, ...]
    precision: str = Field(description="Of the file.")
    settings: dict[str, Any] = Field(description="How it was fine-tuned.")
    epochs: int = Field(description="Trained, over all steps.")
    train_seconds: float | None = Field(
        default=None, description="Measured on this machine; null in a bundle, which holds no times."
    )


class Packing(_Model):
    """How the shipped file was made smaller for TFLM than the file that was scored in LiteRT (docs/packing.md).

    Both give the same outputs in tflite-micro, byte by byte.
    """

    kinds: tuple[str, ...] = Field(
        description="LUT, HUFFMAN, PRUNE: how weights are coded; empty where only what TFLM never reads was left out."
    )
    plain_bytes: int = Field(description="Of the file without what TFLM never reads, no weights coded.")
    unpacked_bytes: int
    unpacked_sha256: str = Field(description="Of the file as it was made: what LiteRT's kernels ran.")
    proven_samples: int = Field(description="Validation samples on which both files gave the same.")


class CandidateResult(_Model):
    """One candidate for one device; what was not measured is null."""

    name: str
    status: CandidateStatus
    reason: str
    sha256: str | None = None
    method: str | None = Field(default=None, description="Which tool made the file.")
    io: str | None = Field(default=None, description="Type of the file's inputs and outputs.")
    accuracy: Accuracy | None = Field(default=None, description="On test for the chosen one, else on validation.")
    accuracy_drop_pp: Interval | None = Field(
        default=None, description="Float model minus candidate in percentage points, paired on the same samples."
    )
    score_drop: Interval | None = Field(
        default=None, description="For metrics that are no ratio: how much worse, in the metric's unit."
    )
    validation_accuracy: Accuracy | None = Field(default=None, description="What the choice was made on.")
    agreement: Interval | None = Field(default=None, description="Share of samples answered as the float model does.")
    output_snr_db: float | None = Field(default=None, description="Against the float outputs; null if they are equal.")
    robustness: Robustness | None = Field(default=None, description="On test; for the chosen candidate only.")
    model_bytes: int | None = None
    packing: Packing | None = Field(default=None, description="Null for a file as it was made; sizes are those packed.")
    packing_note: str | None = Field(default=None, description="Why the file is not packed, or its weights not coded.")
    compressed_bytes: int | None = Field(default=None, description="Deflated, as for an over-the-air update.")
    arena_bytes: int | None = None
    arena_mode: Mode | None = None
    ram_bytes: int | None = Field(default=None, description="What is held against the RAM limit.")
    latency_ms: Latency | None = None
    estimated_latency_ms: EstimatedLatency | None = None
    energy_mj: EstimatedEnergy | None = Field(default=None, description="Null without the device's power.")
    tflm: TflmCheck | None = None
    float_operators: tuple[str, ...] = ()
    kept_operators: tuple[str, ...] = ()
    recipe: RecipeReport | None = Field(default=None, description="Null for the model as it was given.")
    repair: Repair | None = Field(default=None, description="Null for a candidate that is not a repaired one.")
    breaks: tuple[BrokenLimit, ...] = ()
    seconds: float = 0.0


class WhatIf(_Model):
    """What one looser limit would allow, from the candidates that were made."""

    limit: str
    allowed: float
    needed: float
    unit: str
    candidate: str
    text: str = Field(description="What the candidate needs, and what is allowed.")
    objective_value: float | None = Field(description="What it has of the objective, in the objective's unit.")


class DeviceResult(_Model):
    """What was found for one device."""

    device: str
    status: Literal["fits", "no_fit", "failed", "planned"]
    reason: str | None = None
    objective: str | None = Field(default=None, description="What the chosen candidate has least of.")
    chosen: str | None = None
    bundle: str | None = Field(default=None, description="Path of the bundle's .zip; the folder stands beside it.")
    bundle_sha256: str | None = None
    limits: dict[str, float | str | None]
    candidates: tuple[CandidateResult, ...]
    what_if: tuple[WhatIf, ...] = ()
    was_replayed: bool = Field(default=False, description="The recipe of an earlier bundle met every limit again.")
    notes: tuple[str, ...] = ()
    error: str | None = Field(default=None, description="What failed after the bundle was made, e.g. its timing.")


class FloatModel(_Model):
    """The float model that every candidate is held against."""

    model_bytes: int
    macs: int
    accuracy: Accuracy | None
    validation_accuracy: Accuracy | None


class ModelSummary(_Model):
    """The model as it was given."""

    path: str
    kind: str
    sha256: str
    is_trainable: bool
    rebuild_max_difference: float | None
    notes: tuple[str, ...] = ()


class FitResult(_Model):
    """The one object that `edgecomp fit --json` prints."""

    schema_version: Literal["edgecomp.fit/1"] = Field(default="edgecomp.fit/1", alias="schema")
    status: Literal["fits", "no_fit", "planned"]
    run: str | None = Field(default=None, description="Name in the store: `edgecomp explain RUN`.")
    model: ModelSummary
    data: dict[str, Any]
    metric: str
    float_model: FloatModel
    devices: tuple[DeviceResult, ...]
    notes: tuple[str, ...] = ()
    seed: int
    versions: dict[str, str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return self.model_dump(mode="json", by_alias=True)
