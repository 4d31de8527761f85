"""What can be told to the facade's component."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from stacks.components.base import ComponentSettings, Resources
from stacks.components.facade_pods import KEYS
from stacks.components.facade_tenancy import TenancySettings
from stacks.settings import Name

OWN_OPTIONS = (
    *("mode", "data_dir", "database_url", "host", "port", "processes", "administrator_email"),
    *("token_secret", "encryption_secret", "proof_secret", "discovery_token"),
)


class FacadeSettings(ComponentSettings):
    """The API and the workers: what people, playbooks and Prometheus talk to."""

    mode: Literal["kubernetes", "off"] = "kubernetes"
    image: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9./:_-]*(:[A-Za-z0-9_.-]+|@sha256:[0-9a-f]{64})$",
        description="another image, with its tag or digest; absent: the pinned one",
    )
    name: Name = Field(default="api", description="the public name, under the domain")
    administrator_email: str = Field(default="admin@ironyard.local", pattern=r"^[^@\s]+@[^@\s]+$")
    replicas: int = Field(default=2, ge=1, le=50, description="API pods at least")
    max_replicas: int = Field(default=6, ge=1, le=100, description="API pods at most, as load demands")
    target_cpu: int = Field(default=70, ge=10, le=95, description="percent of the request that adds pods")
    workers: int = Field(default=2, ge=1, le=50, description="worker pods")
    resources: Resources = Resources(cpu="250m", memory="512Mi", cpu_limit="2")
    worker_resources: Resources = Resources(cpu="250m", memory="1Gi", cpu_limit="2")
    keys_secret: Name | None = Field(
        default=None, description=f"Secret in ironyard-system with SSH keys, for hosts that name {KEYS}/…"
    )
    options: dict[str, str | int | float] = Field(
        default_factory=dict, description="further settings of the facade: default_gpu_quota: 16"
    )
    tenancy: TenancySettings = TenancySettings()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas must be at least replicas, which is {self.replicas}")
        if self.tenancy.enabled and not self.tenancy.backend:
            raise ValueError("tenancy.enabled needs tenancy.backend: pods keep no state")
        if self.image is not None and self.image.endswith(":latest"):
            raise ValueError("image needs a tag that stays what it is, not latest")
        _check_options(self.options)
        return self


def _check_options(options: dict[str, str | int | float]) -> None:
    """Raises ValueError where the facade would not start with them."""
    from api.settings import Settings

    own = {name for name in Settings.model_fields if name in OWN_OPTIONS or name.startswith("tenancy_")}
    known = sorted(Settings.model_fields.keys() - own)
    for name in options:
        if name not in known:
            raise ValueError(f"options.{name} cannot be set here (known: {', '.join(known)})")
    try:
        Settings(_env_file=None, mode="development", **options)  # type: ignore[arg-type]
    except ValidationError as refused:
        first = refused.errors()[0]
        raise ValueError(f"options.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
