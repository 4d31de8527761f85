"""Shapes of the usage report."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel
from pydantic import Field as Member


class UsageLine(BaseModel):
    """One hold, cut to the report's window. Seconds are whole, as differences of rounded-down moments."""

    allocation_id: UUID
    workspace: str
    requested_by: str
    host: str
    gpu_uuid: str
    model: str
    start: datetime
    end: datetime = Member(description="the window's end, or now, for a hold that is still open")
    open: bool
    gpu_seconds: int


class CapacityLine(BaseModel):
    """One GPU: allocated + idle + reclaiming + maintenance = enrolled seconds, exactly."""

    host: str
    gpu_uuid: str
    model: str
    enrolled_seconds: int
    allocated_seconds: int
    idle_seconds: int
    reclaiming_seconds: int = Member(description="also enrolling, cleaning and checking")
    maintenance_seconds: int


class UsageReport(BaseModel):
    start: datetime
    end: datetime
    generated_at: datetime
    usage: list[UsageLine]
    capacity: list[CapacityLine]
