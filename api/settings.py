"""Every setting of the platform, read once from the environment (`IRONYARD_*`) and `.env`."""

from __future__ import annotations

import secrets
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
MINIMUM_SECRET_LENGTH = 32
SECRETS = ("token_secret", "encryption_secret", "proof_secret")


class Settings(BaseSettings):
    """Durations are in seconds, sizes in bytes unless the name says otherwise.

    In `production` mode construction fails unless the secrets are given and the database is named;
    in `development` missing secrets are generated once and kept in `data_dir`, readable by the owner only.
    """

    model_config = SettingsConfigDict(env_prefix="IRONYARD_", env_file=".env", extra="ignore")

    mode: Literal["development", "production"] = "development"
    data_dir: Path = Path(".ironyard")
    database_url: str = Field(default="", description="SQLAlchemy URL; empty: SQLite in data_dir")
    database_pool_size: int = Field(default=10, ge=1, le=200)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    processes: int = Field(default=1, ge=1, le=64, description="API processes")
    body_limit: int = Field(default=1_048_576, ge=1024)
    report_limit: int = Field(default=33_554_432, ge=1024, description="the report of a run by hand")

    token_secret: SecretStr = SecretStr("")
    encryption_secret: SecretStr = SecretStr("")
    proof_secret: SecretStr = SecretStr("")
    discovery_token: SecretStr = Field(
        default=SecretStr(""), description="opens service discovery and nothing else; empty: operators only"
    )
    token_lifetime: int = Field(default=12 * 3600, ge=60)
    one_time_password_lifetime: int = Field(default=24 * 3600, ge=60)
    administrator_email: str = "admin@ironyard.local"

    idempotency_lifetime: int = Field(
        default=24 * 3600, ge=60, description="how long an Idempotency-Key is kept"
    )

    default_gpu_quota: int = Field(default=8, ge=0)
    allocation_lifetime: int = Field(default=7 * 86400, ge=60, description="when a claim names no end")
    allocation_lifetime_limit: int = Field(default=90 * 86400, ge=60)
    allocation_grace: int = Field(default=0, ge=0, description="time after the planned end, before the end")
    cleaning_gap: int = Field(default=900, ge=0, description="kept free after an end, before a reservation")
    reservation_horizon: int = Field(default=180 * 86400, ge=60, description="how far ahead one may reserve")
    offer_lifetime: int = Field(default=300, ge=1, description="how long an offer and its price stand")
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$", description="ISO 4217; of rates and budgets")

    worker_concurrency: int = Field(default=4, ge=1, le=64)
    worker_heartbeat: float = Field(default=2.0, gt=0)
    worker_timeout: float = Field(default=15.0, gt=0, description="silence after which a worker is dead")
    operation_attempts: int = Field(default=3, ge=1)
    external_run_timeout: float = Field(default=120.0, gt=0, description="silence that ends a run by hand")
    queue_polling: float = Field(default=0.25, gt=0)
    expiry_interval: float = Field(default=5.0, gt=0)
    expiry_warnings: list[PositiveInt] = Field(
        default=[7 * 86400, 86400, 3600], description="how long before an end its holders are told of it"
    )
    queue_interval: float = Field(default=2.0, gt=0, description="how often claims that wait are looked at")
    fair_share_window: int = Field(
        default=7 * 86400, ge=60, description="use that decides whose turn it is in the queue"
    )
    preemption_notice: int = Field(default=600, ge=0, description="from the notice to the end")
    group_interval: float = Field(default=1.0, gt=0, description="how often groups begin their next hosts")

    node_exporter_port: int = Field(default=9100, ge=1, le=65535)
    dcgm_exporter_port: int = Field(default=9400, ge=1, le=65535)

    prometheus_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="the Prometheus that scrapes the hosts; empty: idle is unknown",
    )
    leak_interval: float = Field(
        default=300.0, ge=0, description="how often leaks are looked for; 0: when asked"
    )
    leak_idle_percent: float = Field(default=5.0, gt=0, le=100, description="utilisation below which is idle")
    leak_window: int = Field(default=7200, ge=5, description="how long a GPU has to be idle to be a leak")
    leak_warning: int = Field(default=86400, ge=0, description="from the warning to what was announced")
    leak_policy_idle: Literal["notify", "reclaim-after-warning"] = "notify"
    leak_policy_host: Literal["notify", "reclaim-after-warning"] = "notify"
    leak_policy_unexplained: Literal["notify", "reclaim-after-warning"] = "notify"
    leak_memory_mib: int = Field(default=1024, ge=1, description="in use on a GPU nobody holds: unexplained")
    leak_stuck_after: int = Field(default=3600, ge=60, description="without progress an operation is stuck")
    leak_look_interval: int = Field(
        default=86400, ge=0, description="how often idle hosts are compared with their record; 0: when asked"
    )

    playbooks_dir: Path = ROOT / "playbooks"
    enroll_timeout: int = Field(default=1800, ge=10)
    reclaim_timeout: int = Field(default=3600, ge=10)
    health_timeout: int = Field(default=1800, ge=10)
    health_interval: int = Field(
        default=3600, ge=0, description="how often idle hosts are checked; 0: only when asked"
    )
    health_max_age: int = Field(
        default=86400, ge=0, description="age of a check from which a host is not lent; 0: any age will do"
    )
    health_at_once: int = Field(default=2, ge=1, description="checks on the schedule at the same time")
    ssh_timeout: int = Field(default=15, ge=1)
    reimage_command: str = Field(
        default="", description="installs a host anew; {name}, {address}, {port} and {id} are filled in"
    )
    reimage_timeout: int = Field(default=3600, ge=10)

    tenancy_stack: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_.-]{1,100})?$",
        description="Pulumi stack of the cluster that follows the ledger; empty: none does",
    )
    tenancy_backend: str = Field(default="", description="Pulumi backend URL; empty: a folder in data_dir")
    tenancy_passphrase: SecretStr = SecretStr("")
    tenancy_config: str = Field(
        default="", description="the stack's configuration; empty: Pulumi.<stack>.yaml in stacks/tenancy"
    )
    tenancy_kubeconfig: str = Field(default="", description="path; empty: what kubectl would use")
    tenancy_registry_password: SecretStr = Field(
        default=SecretStr(""), description="in place of registry.password in the stack's configuration"
    )
    tenancy_timeout: int = Field(default=1800, ge=10)
    tenancy_retry: float = Field(default=300.0, gt=0, description="how often a failed sync is tried again")

    @field_validator("discovery_token")
    @classmethod
    def _no_short_token(cls, given: SecretStr) -> SecretStr:
        if 0 < len(given.get_secret_value()) < MINIMUM_SECRET_LENGTH:
            raise ValueError(
                f"IRONYARD_DISCOVERY_TOKEN must be empty or have at least {MINIMUM_SECRET_LENGTH} characters"
            )
        return given

    @model_validator(mode="after")
    def _production_names_its_secrets(self) -> Self:
        if self.mode != "production":
            return self
        for name in SECRETS:
            if len(getattr(self, name).get_secret_value()) < MINIMUM_SECRET_LENGTH:
                raise ValueError(
                    f"IRONYARD_{name.upper()} must be set to at least {MINIMUM_SECRET_LENGTH} characters "
                    "in production mode"
                )
        given = {getattr(self, name).get_secret_value() for name in SECRETS}
        if len(given) < len(SECRETS):
            raise ValueError(
                "IRONYARD_TOKEN_SECRET, IRONYARD_ENCRYPTION_SECRET and IRONYARD_PROOF_SECRET must differ"
            )
        if self.discovery_token.get_secret_value() in given:
            raise ValueError("IRONYARD_DISCOVERY_TOKEN must differ from the secrets: Prometheus holds it")
        if not self.database_url:
            raise ValueError("IRONYARD_DATABASE_URL must be set in production mode")
        if self.tenancy_stack and not self.tenancy_passphrase.get_secret_value():
            raise ValueError("IRONYARD_TENANCY_PASSPHRASE must be set where IRONYARD_TENANCY_STACK is")
        return self

    @cached_property
    def database(self) -> str:
        """The database's SQLAlchemy URL."""
        if self.database_url:
            return self.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return f"sqlite:///{self.data_dir.resolve() / 'ironyard.db'}"

    @cached_property
    def signing_key(self) -> str:
        """Signs session tokens."""
        return self._secret("token_secret")

    @cached_property
    def encryption_key(self) -> str:
        """Encrypts secrets at rest."""
        return self._secret("encryption_secret")

    @cached_property
    def proof_key(self) -> str:
        """Signs manifests and reclaim records."""
        return self._secret("proof_secret")

    @cached_property
    def tenancy_key(self) -> str:
        """Encrypts the secrets in the state of the cluster's stack."""
        return self._secret("tenancy_passphrase")

    def _secret(self, name: str) -> str:
        given: str = getattr(self, name).get_secret_value()
        if given:
            return given
        kept = self.data_dir / name.replace("_", "-")
        if not kept.exists():
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = kept.with_suffix(f".{secrets.token_hex(4)}")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_urlsafe(48))
            try:
                kept.hardlink_to(draft)  # the first process wins, the others read its secret
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return kept.read_text()
