"""The settings: one frozen value, read once, from the file that lists them all and from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator import house
from orchestrator.domain.errors import Misconfigured

PREFIX = "ORCHESTRATOR_"

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)

_DATABASE = re.compile(r"[a-z][a-z0-9_]{0,30}", re.ASCII)


class Settings(BaseModel):
    """Every setting; `configs/settings.yaml` says what each is for."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    data_dir: str
    database_url: str
    audit_key_file: str
    secrets_key_file: str
    secrets_key_env: str
    vault_url: str
    vault_mount: str
    vault_prefix: str
    vault_token_file: str
    vault_timeout_s: float = Field(gt=0, le=60)
    checkpoint_key_file: str
    checkpoint_file: str
    checkpoint_every_s: float = Field(ge=0, le=86_400)
    pepper_file: str
    broker_url: str
    redis_url: str
    lease_s: float = Field(gt=0, le=3600)
    max_attempts: int = Field(ge=1, le=100)
    backoff_base_s: float = Field(ge=0)
    backoff_cap_s: float = Field(ge=0)
    unheard_after_s: float = Field(gt=0)
    sweep_every_s: float = Field(gt=0)
    concurrency: int = Field(ge=1, le=256)
    api_port: int = Field(ge=0, le=65535)
    api_replicas: int = Field(ge=1, le=1000)
    trusted_hosts: str
    dev_anonymous: bool
    session_ttl_s: int = Field(ge=60, le=7 * 86400)
    oidc_issuer: str
    oidc_audience: str
    oidc_jwks_url: str
    oidc_algorithms: str
    oidc_leeway_s: float = Field(ge=0, le=300)
    oidc_tenant_claim: str = Field(min_length=1)
    oidc_roles_claim: str = Field(min_length=1)
    oidc_role_prefix: str
    rate_read_per_minute: int = Field(ge=1, le=1_000_000)
    rate_write_per_minute: int = Field(ge=1, le=1_000_000)
    rate_login_per_minute: int = Field(ge=1, le=1_000_000)
    rate_burst_s: float = Field(gt=0, le=60)
    approval_ttl_days: float = Field(gt=0)
    conversations_kept_days: float = Field(ge=0, le=36_500)
    webhook_url: str
    webhook_secret_file: str
    webhook_timeout_s: float = Field(gt=0, le=300)
    webhook_attempts: int = Field(ge=1, le=100)
    step_timeout_s: float = Field(gt=0)
    acknowledge_after_s: float = Field(ge=0)
    shutdown_grace_s: float = Field(ge=0)
    documents_roots: str
    documents_semantic: bool
    egress_hosts: str
    egress_plain_http: bool
    databases: str
    web_search_provider: Literal["", "searxng", "brave", "tavily"]
    web_search_url: str
    web_search_key_env: str
    sandbox_python: str
    sandbox_first_uid: int = Field(ge=1000, le=2**31)
    models_file: str
    model_base_url: str
    model_name: str
    model_key_env: str
    model_input_uusd_per_1k: int = Field(ge=0)
    model_output_uusd_per_1k: int = Field(ge=0)
    decision_log_file: str
    decision_log_input: bool
    stops_file: str
    metrics_listen: str
    policy_look_s: float = Field(ge=0, le=3_600)
    opa_url: str
    opa_timeout_s: float = Field(gt=0, le=30)
    opa_ca_file: str
    opa_token_env: str
    prompts_file: str
    tool_registry_file: str
    tools_look_s: float = Field(ge=0, le=3_600)
    log_level: Literal["debug", "info", "warning", "error"]

    @field_validator("redis_url")
    @classmethod
    def _an_address_or_nothing(cls, url: str) -> str:
        if url and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it must be empty, or begin with redis://, rediss:// or unix://")
        return url

    @field_validator("webhook_url")
    @classmethod
    def _a_web_address_or_nothing(cls, url: str) -> str:
        to = urlsplit(url)
        fits = to.scheme in {"http", "https"} and to.hostname and url.isascii() and url.isprintable()
        if url and (not fits or to.username is not None or to.fragment or " " in url):
            raise ValueError(
                "it must be empty, or an http:// or https:// address without a user and a fragment"
            )
        return url

    @field_validator("vault_url")
    @classmethod
    def _vault_by_http_or_nothing(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("it must be empty, or begin with https:// or http://")
        return url

    @field_validator("databases")
    @classmethod
    def _names_and_places(cls, databases: str) -> str:
        names = []
        for entry in databases.split():
            name, _, place = entry.partition("=")
            if not _DATABASE.fullmatch(name) or not place:
                raise ValueError("write name=path or name=postgresql://…, separated by spaces")
            names.append(name)
        if len(names) != len(set(names)):
            raise ValueError("a name stands for one database only")
        return databases

    @field_validator("web_search_url")
    @classmethod
    def _a_search_engine_or_nothing(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("it must be empty, or begin with https:// or http://")
        return url

    @model_validator(mode="after")
    def _its_own_search_engine_has_an_address(self) -> Settings:
        if self.web_search_provider == "searxng" and not self.web_search_url:
            raise ValueError("web_search_provider searxng needs web_search_url, the address of an instance")
        return self

    @field_validator("egress_hosts")
    @classmethod
    def _names_of_hosts(cls, hosts: str) -> str:
        for host in _listed(hosts):
            if host != "*" and not _HOST.fullmatch(host.removeprefix("*.")):
                raise ValueError(
                    f"{host!r} is not a host: write example.org, *.example.org or *, "
                    "in lower case, and a name in another script as xn--…"
                )
        return hosts

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of the web that may be asked."""
        return _listed(self.egress_hosts)

    @property
    def named_databases(self) -> Mapping[str, str]:
        """The databases that tools may read: a path or a URL for each name."""
        return dict(entry.split("=", 1) for entry in self.databases.split())

    @property
    def data(self) -> Path:
        """The folder of embedded mode."""
        return (
            Path(self.data_dir).expanduser() if self.data_dir else platformdirs.user_data_path("orchestrator")
        )

    @property
    def own_hosts(self) -> frozenset[str]:
        """The names under which the API answers, besides those of this machine."""
        return frozenset(self.trusted_hosts.lower().split())

    @property
    def stops(self) -> Path:
        """The file of the kill switch."""
        return Path(self.stops_file).expanduser() if self.stops_file else self.data / "stops.txt"

    @property
    def prompts(self) -> Path:
        """The file of domains and personas."""
        return (
            Path(self.prompts_file).expanduser() if self.prompts_file else house.path("configs/prompts.yaml")
        )

    @property
    def tool_registry(self) -> Path:
        """The file of tools and their servers."""
        if self.tool_registry_file:
            return Path(self.tool_registry_file).expanduser()
        return house.path("configs/tool_registry.yaml")

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders of documents that tools may read."""
        return tuple(Path(p).expanduser() for p in self.documents_roots.split(os.pathsep) if p)


def load(
    *, environment: Mapping[str, str] | None = None, file: Path | None = None, **overrides: object
) -> Settings:
    """Return the settings: the file's, then the environment's, then the overrides that are not `None`.

    Raises `Misconfigured` naming the key, for one that is unknown or a value that does not fit.
    """
    environment = os.environ if environment is None else environment
    path = file or house.path("configs/settings.yaml")
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise Misconfigured(f"The settings in {path.name} cannot be read: {error}") from error
    values |= _from_environment(environment)
    values |= {key: value for key, value in overrides.items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Misconfigured(
            f"Setting {key!r}: {first['msg']}. See configs/settings.yaml for what it takes."
        ) from error


def _from_environment(environment: Mapping[str, str]) -> Mapping[str, str]:
    known = Settings.model_fields
    found = {
        key.removeprefix(PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(PREFIX)
    }
    # other programs' variables may share the prefix (such as the model's key); only known settings are taken
    return {key: value for key, value in found.items() if key in known}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
