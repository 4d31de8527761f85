"""What operators ask for: hosts to record, changes of them, and why."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, SecretStr, StringConstraints, model_validator
from pydantic import Field as Member

from api.fleet.models import (
    Address,
    DrainsTo,
    HostKey,
    HostName,
    KeyReference,
    Label,
    ReclaimPolicy,
    Region,
    SshUser,
)


class HostCreate(BaseModel):
    """Give the private key itself (kept encrypted), or the path of a key file on the workers' machines."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "name": "gpu-01",
                "address": "10.0.4.11",
                "ssh_user": "root",
                "key_reference": "/etc/ironyard/keys/fleet",
                "region": "eu-west",
                "labels": {"rack": "b12"},
            }
        },
    )

    name: HostName
    address: Address
    port: int = Member(default=22, ge=1, le=65535)
    ssh_user: SshUser = "root"
    key: SecretStr | None = Member(default=None, max_length=16384, description="private key, OpenSSH or PEM")
    key_reference: KeyReference | None = None
    host_keys: list[HostKey] = Member(
        default_factory=list, max_length=8, description="public host keys; empty: trusted on first use"
    )
    region: Region
    labels: dict[Label, Annotated[str, StringConstraints(max_length=128)]] = Member(
        default_factory=dict, max_length=50
    )
    enroll: bool = Member(default=True, description="false: only record it, to be enrolled by hand")

    @model_validator(mode="after")
    def _one_key(self) -> HostCreate:
        if (self.key is None) == (self.key_reference is None):
            raise ValueError("give exactly one of key and key_reference")
        if self.key is not None and "PRIVATE KEY-----" not in self.key.get_secret_value():
            raise ValueError("key must be a private key in OpenSSH or PEM form")
        return self


class EnrollAgain(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"trust_new_host_key": False}}, extra="forbid")

    trust_new_host_key: bool = Member(
        default=False, description="the machine was reinstalled: forget its SSH host keys and its manifest"
    )


class Reason(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"reason": "fan 3 is loud"}}, extra="forbid")

    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] | None = None


class HostChange(BaseModel):
    """Only what is given changes."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"labels": {"rack": "b13"}, "reclaim_policy": "reimage"}},
    )

    region: Region | None = None
    labels: dict[Label, Annotated[str, StringConstraints(max_length=128)]] | None = Member(
        default=None, max_length=50, description="all of them: those not given are removed"
    )
    reclaim_policy: ReclaimPolicy | None = None
    address: Address | None = None
    port: int | None = Member(default=None, ge=1, le=65535)
    ssh_user: SshUser | None = None
    key: SecretStr | None = Member(default=None, max_length=16384, description="private key, OpenSSH or PEM")
    key_reference: KeyReference | None = None
    host_keys: list[HostKey] | None = Member(
        default=None, max_length=8, description="public host keys; empty: trusted on first use, once"
    )
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] | None = None

    @model_validator(mode="after")
    def _one_key(self) -> HostChange:
        if self.key is not None and self.key_reference is not None:
            raise ValueError("give one of key and key_reference")
        if self.key is not None and "PRIVATE KEY-----" not in self.key.get_secret_value():
            raise ValueError("key must be a private key in OpenSSH or PEM form")
        return self


class Drain(Reason):
    model_config = ConfigDict(
        json_schema_extra={"example": {"to": "maintenance", "reason": "new power supplies"}}, extra="forbid"
    )

    to: DrainsTo = Member(default=DrainsTo.MAINTENANCE, description="where it goes once it is free and clean")
