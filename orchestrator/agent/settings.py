"""agent.yaml and HAFARM_*: what one node's agent has to know before it reads the cluster's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orchestrator.config.marks import ConfigRefused, Problem, parse


class AgentSettings(BaseSettings):
    """Paths are absolute; HAFARM_NODE and the like win over the file."""

    model_config = SettingsConfigDict(env_prefix="HAFARM_", extra="forbid", frozen=True)

    node: str
    config: str = "/etc/hafarm/hafarm.yaml"
    bundle: str = "/etc/hafarm/bundle"
    state_dir: str = "/var/lib/hafarm"
    run_dir: str = "/run/hafarm"
    log_dir: str = "/var/log/hafarm"
    log_format: Literal["text", "json"] = "text"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file; nothing else is read."""
        return env_settings, init_settings


def load(path: str) -> AgentSettings:
    """Read agent.yaml; ConfigRefused with line and column for whatever is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "not UTF-8 text"
        raise ConfigRefused(path, (Problem(1, 1, "", f"cannot be read: {why}"),)) from fault
    marked = parse(text, path)
    if not isinstance(marked.data, dict):
        raise ConfigRefused(
            path, (Problem(1, 1, "", "a mapping of settings is needed, such as node: paris"),)
        )
    values: dict[str, Any] = marked.data
    try:
        return AgentSettings(**values)
    except ValidationError as fault:
        known = ", ".join(AgentSettings.model_fields)
        problems = [
            marked.problem(error["loc"], f"unknown field; known here: {known}")
            if error["type"] == "extra_forbidden"
            else marked.problem(error["loc"], "is missing" if error["type"] == "missing" else error["msg"])
            for error in fault.errors()
        ]
        raise ConfigRefused(path, tuple(sorted(problems))) from fault
