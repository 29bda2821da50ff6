"""What every part of hafarm.yaml's shape is made of."""

from __future__ import annotations

import os.path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

TEXT: Final = {"type": "string"}


def _path(value: object) -> str:
    if (
        not isinstance(value, str)
        or not value.startswith("/")
        or value.startswith("//")
        or os.path.normpath(value) != value.rstrip("/")
    ):
        raise ValueError("an absolute path without . or .. is needed")
    return value.rstrip("/")


Directory = Annotated[str, BeforeValidator(_path), WithJsonSchema({**TEXT, "pattern": "^/"})]


class Shape(BaseModel):
    """Nothing is guessed and nothing is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
