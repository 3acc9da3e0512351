"""The JSON configuration in a Keras file: which classes it needs, and whether it holds code. No Keras is imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgecomp.errors import ModelError

TRUST_HINT = (
    "If you trust where the file comes from, add --trust-model-code; otherwise replace the layer by an ordinary one, "
    "or export the model as SavedModel: that holds operators, not code."
)
CUSTOM_HINT = (
    "Name its module with --custom-objects, or export the model with model.export('folder') and pass that folder: a "
    "SavedModel needs no class."
)

# Classes from these packages can be looked up; Keras itself refuses to import any other.
_PACKAGES = ("keras", "tf_keras", "keras_hub", "keras_cv", "keras_nlp", "builtins", "numpy", "tensorflow")
# Public TensorFlow functions that a TFOpLambda layer may name and that act on the machine, not on tensors.
_ACTING_FUNCTIONS = (
    "io.", "py_function", "numpy_function", "raw_ops.", "compat.", "saved_model.", "load_", "train.", "summary.",
)  # fmt: skip


def check_config(
    config: Any, where: str, *, is_keras3: bool, trust_code: bool, custom_objects: str | None = None
) -> None:
    """Refuse code that nobody vouched for, and classes that nobody can find.

    Args:
        config: The parsed configuration.
        where: The file, for messages.
        is_keras3: Only Keras 3 writes modules into configurations; in older ones a class can only be told from its
            name, which the loader does.
        trust_code: Accept code.
        custom_objects: What --custom-objects says: classes that Keras does not know are left to the loader.

    Raises:
        ModelError: With the name of the layer and the class.
    """
    if not isinstance(config, dict) or "class_name" not in config:
        raise ModelError(f"{where}: damaged: its configuration describes no model.", hint="Save it again.")
    for layer, item in _objects(config, ""):
        code = None if trust_code else _code(item)
        if code is not None:
            raise ModelError(
                f"{where}: layer {layer!r} holds Python code ({code}), which would run when the model is opened.",
                hint=TRUST_HINT,
            )
        custom = _custom_class(item) if is_keras3 and custom_objects is None else None
        if custom is not None:
            raise ModelError(f"{where}: layer {layer!r} needs {custom}, which is not part of Keras.", hint=CUSTOM_HINT)


def layer_classes(config: Any) -> Iterator[tuple[str, str]]:
    """(class, layer name) of every layer in a configuration, at every depth."""
    for _, item in _objects(config, ""):
        inner = item.get("config")
        if isinstance(inner, dict) and "name" in inner and isinstance(item.get("class_name"), str):
            yield item["class_name"], str(inner["name"])


def _objects(value: Any, layer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict below `value` with the name of the innermost layer around it."""
    if isinstance(value, list | tuple):
        for member in value:
            yield from _objects(member, layer)
    if not isinstance(value, dict):
        return
    inner = value.get("config")
    if "class_name" in value:
        own = value.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
        # Dtype policies carry a name too, and would hide that of their layer.
        if isinstance(own, str) and not str(value["class_name"]).endswith("DTypePolicy"):
            layer = own
    yield layer, value
    for key, member in value.items():
        # Losses and metrics are not needed: models are opened without being compiled.
        if key not in ("compile_config", "inbound_nodes"):
            yield from _objects(member, layer)


def _code(item: dict[str, Any]) -> str | None:
    """What makes an object code, or None."""
    kind = item.get("class_name")
    if kind in ("Lambda", "__lambda__"):
        return "Lambda" if kind == "Lambda" else "a lambda function"
    value = item.get("value")
    if set(item) == {"value"} and isinstance(value, list) and value and isinstance(value[0], str):
        return "a lambda function"
    inner = item.get("config")
    if kind == "TFOpLambda" and isinstance(inner, dict):
        function = str(inner.get("function"))
        if function.startswith(_ACTING_FUNCTIONS):
            return f"tf.{function}"
    return None


def _custom_class(item: dict[str, Any]) -> str | None:
    """Description of a class or function that Keras cannot find by itself, or None."""
    if not {"module", "class_name", "registered_name"} <= set(item):
        return None
    name, module, registered = item["class_name"], item["module"], item["registered_name"]
    if module is None and registered is not None:
        return f"the class {registered if '>' in str(registered) else name}"
    if isinstance(module, str) and module.split(".", maxsplit=1)[0] not in _PACKAGES:
        what = "function" if name == "function" else "class"
        return f"the {what} {item['config'] if name == 'function' else name} of the module {module}"
    return None
