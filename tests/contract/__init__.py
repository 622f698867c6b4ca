"""What other programs are promised, judged as they would judge it: with a JSON Schema validator that is not ours."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from jsonschema import Draft202012Validator
from jsonschema.validators import extend


def _pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[jsonschema.ValidationError]:
    # In the dialect of JSON Schema (ECMA-262) $ is the end; Python also takes it for the place before a last newline.
    if isinstance(instance, str) and not re.search(pattern.removesuffix("$") + r"\Z", instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(Draft202012Validator, {"pattern": _pattern})


def valid(schema: Any, instance: Any, **how: Any) -> bool:
    """Whether a reader with ``schema`` takes ``instance``."""
    return bool(_Validator(schema, **how).is_valid(instance))
