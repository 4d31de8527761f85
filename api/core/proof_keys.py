"""The public keys that check what was ever signed here: the present one, and those of earlier secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Member
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import Field, SQLModel, col

from api.core import clock
from api.core.columns import Json, UtcDateTime
from api.core.db import TransactionalRoute, Tx, is_sqlite, table
from api.core.proof import SIGNER, Signer


class ProofKey(SQLModel, table=True):
    __tablename__ = "proof_keys"

    id: str = Field(primary_key=True)
    public_key: dict[str, Any] = Field(sa_type=Json)
    first_used_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class KeySet(BaseModel):
    """A JSON Web Key Set (RFC 7517)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "keys": [
                    {
                        "kty": "OKP",
                        "crv": "Ed25519",
                        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
                        "use": "sig",
                        "alg": "EdDSA",
                    }
                ]
            }
        }
    )

    keys: list[dict[str, Any]] = Member(description="public JWKs, the present one first")


def sign(tx: Session, statement: dict[str, Any]) -> str:
    """Sign with the key that the transaction carries, and keep its public half for later readers."""
    signer: Signer = tx.info[SIGNER]
    if tx.get(ProofKey, signer.key_id) is None:
        _keep(tx, signer)
    return signer.sign(statement)


def _keep(tx: Session, signer: Signer) -> None:
    insert = sqlite.insert if is_sqlite(tx) else postgresql.insert
    row = ProofKey(id=signer.key_id, public_key=signer.public_key).model_dump()
    tx.execute(insert(table(ProofKey)).values(row).on_conflict_do_nothing())


router = APIRouter(prefix="/api/v1/proof", tags=["proof"], route_class=TransactionalRoute)


@router.get("/keys", summary="Read the keys that check signatures")
def list_keys(tx: Tx, request: Request) -> KeySet:
    """Open to everybody: whoever has a record checks it, a tenant included."""
    present: Signer = request.app.state.signer
    rows = tx.execute(sa.select(ProofKey).order_by(col(ProofKey.first_used_at).desc())).scalars()
    earlier = [row.public_key for row in rows if row.id != present.key_id]
    return KeySet(keys=[present.public_key, *earlier])
