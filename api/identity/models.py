"""Tables and shapes of users and API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, SecretStr, StringConstraints
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.access import Role
from api.core.columns import EnumText, UtcDateTime
from api.core.ids import new_id


class User(SQLModel, table=True):
    __tablename__ = "users"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    email: str = Field(unique=True)
    name: str
    role: Role = Field(sa_type=EnumText(Role))
    password_hash: str
    password_expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    token_generation: int = 0
    active: bool = True
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class ApiKey(SQLModel, table=True):
    __tablename__ = "api_keys"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    user_id: UUID = Field(foreign_key="users.id", index=True)
    name: str
    prefix: str
    digest: str = Field(unique=True)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$"),
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
NewPassword = Annotated[SecretStr, Member(min_length=12, max_length=256)]


class SignIn(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {"email": "admin@ironyard.local", "password": "the one printed at the start"}
        }
    )

    email: Email
    password: SecretStr = Member(max_length=256)


class Token(BaseModel):
    access_token: str
    token_type: str = "bearer"  # noqa: S105
    expires_in: int = Member(description="seconds")
    must_change_password: bool = Member(description="a one-time password was used; set another one")


class PasswordChange(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {"current_password": "the one in use", "new_password": "twelve characters or more"}
        }
    )

    current_password: SecretStr = Member(max_length=256)
    new_password: NewPassword


class UserCreate(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"example": {"email": "ada@example.org", "name": "Ada", "role": "member"}}
    )

    email: Email
    name: Name
    role: Role = Role.MEMBER


class UserUpdate(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"role": "operator"}}, extra="forbid")

    role: Role | None = None
    active: bool | None = None


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    name: str
    role: Role
    active: bool
    created_at: datetime


class UserCreated(UserRead):
    one_time_password: str = Member(description="shown this once")


class ApiKeyCreate(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "nightly report"}})

    name: Name


class ApiKeyRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class ApiKeyCreated(ApiKeyRead):
    key: str = Member(description="shown this once")
