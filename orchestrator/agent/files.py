"""The files that a node begins with, read and checked: agent.yaml and HAFARM_*, hafarm.yaml, the bundle."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orchestrator.agent.settings import AgentSettings
from orchestrator.config.load import load as load_cluster
from orchestrator.config.marks import ConfigRefused, Problem, parse
from orchestrator.model.config import ClusterConfig
from orchestrator.setup.bundle import check_bundle


class AgentFile(BaseSettings):
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


def read(path: str) -> tuple[AgentSettings, ClusterConfig]:
    """What agent.yaml and the files that it names say; ConfigRefused or BundleRefused for what is wrong."""
    settings = _load(path)
    config = load_cluster(settings.config)
    _check_node(settings, config, path)
    check_bundle(settings.bundle, config.name, settings.node)
    return settings, config


def _load(path: str) -> AgentSettings:
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
        return AgentSettings(**AgentFile(**values).model_dump())
    except ValidationError as fault:
        known = ", ".join(AgentFile.model_fields)
        problems = [
            marked.problem(error["loc"], f"unknown field; known here: {known}")
            if error["type"] == "extra_forbidden"
            else marked.problem(error["loc"], "is missing" if error["type"] == "missing" else error["msg"])
            for error in fault.errors()
        ]
        raise ConfigRefused(path, tuple(sorted(problems))) from fault


def _check_node(settings: AgentSettings, config: ClusterConfig, file: str) -> None:
    """ConfigRefused where the node is named: in the environment, which wins, or in the agent's file."""
    names = [node.name for node in config.nodes]
    if settings.node in names:
        return
    near = difflib.get_close_matches(settings.node, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"these are: {', '.join(names)}"
    text = f"no node of {settings.config} is named {settings.node}; {hint}"
    if "HAFARM_NODE" in os.environ:
        raise ConfigRefused("HAFARM_NODE", (Problem(1, 1, "", text),))
    marked = parse(Path(file).read_text(encoding="utf-8"), file)
    raise ConfigRefused(file, (marked.problem(("node",), text),))
