"""What the database promises of quotas at every level, budgets, reservations and prices."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HOLD_FACTS = (
    "id",
    "allocation_id",
    "workspace_id",
    "user_id",
    "gpu_id",
    "host_id",
    "model",
    "rate",
    "started_at",
)
BOOKING_FACTS = (
    "id",
    "allocation_id",
    "workspace_id",
    "user_id",
    "gpu_id",
    "host_id",
    "model",
    "starts_at",
    "ends_at",
    "free_at",
)
# The scopes that a hold counts in: its workspace, that one's organisation, its member.
SCOPES = """scope_id IN (NEW.workspace_id,
            (SELECT organisation_id FROM workspaces WHERE id = NEW.workspace_id),
            (SELECT id FROM memberships WHERE workspace_id = NEW.workspace_id AND user_id = NEW.user_id))"""
COUNT = """(SELECT count(*) FROM holds h WHERE h.ended_at IS NULL AND NEW.model IN ('', h.model)
            AND CASE NEW.scope
            WHEN 'workspace' THEN h.workspace_id = NEW.scope_id
            WHEN 'organisation' THEN h.workspace_id IN
                (SELECT id FROM workspaces WHERE organisation_id = NEW.scope_id)
            ELSE EXISTS (SELECT 1 FROM memberships m WHERE m.id = NEW.scope_id
                AND m.workspace_id = h.workspace_id AND m.user_id = h.user_id) END)"""
BOOKED = """(SELECT MIN(starts_at) FROM reservations WHERE gpu_id = NEW.gpu_id AND closed_at IS NULL)"""
IN_THE_WAY = """NEW.held_by IS NOT NULL AND NEW.held_until > NEW.booked_from"""

POSTGRESQL = (
    f"""CREATE OR REPLACE FUNCTION ironyard_hold_opened() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE quotas SET used = used + 1
        WHERE resource = 'gpus' AND model IN ('', NEW.model) AND {SCOPES};
    RETURN NULL;
END $$""",
    f"""CREATE OR REPLACE FUNCTION ironyard_hold_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE quotas SET used = used - 1
        WHERE resource = 'gpus' AND model IN ('', NEW.model) AND {SCOPES};
    RETURN NULL;
END $$""",
    f"""CREATE OR REPLACE FUNCTION ironyard_quota_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.resource = 'gpus' THEN
        NEW.used := {COUNT};
    END IF;
    RETURN NEW;
END $$""",
    """CREATE TRIGGER holds_closed_once BEFORE UPDATE ON holds FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL OR NEW.ended_at IS NULL OR {hold_changed})
    EXECUTE FUNCTION ironyard_refuse('a hold is closed once and never edited')""",
    """CREATE TRIGGER holds_counted_in AFTER INSERT ON holds FOR EACH ROW
    WHEN (NEW.ended_at IS NULL) EXECUTE FUNCTION ironyard_hold_opened()""",
    """CREATE TRIGGER holds_counted_out AFTER UPDATE ON holds FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION ironyard_hold_closed()""",
    """CREATE TRIGGER quotas_counted BEFORE INSERT ON quotas FOR EACH ROW
    EXECUTE FUNCTION ironyard_quota_counts()""",
    """CREATE TRIGGER quotas_kept BEFORE UPDATE ON quotas FOR EACH ROW
    WHEN (NEW.used > OLD.used AND NEW.used > NEW.hard_limit)
    EXECUTE FUNCTION ironyard_refuse('the quota would be overrun')""",
    """CREATE FUNCTION ironyard_budget_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.committed > (SELECT hard_limit FROM budgets
            WHERE scope_id = NEW.scope_id AND resource = NEW.resource) THEN
        RAISE EXCEPTION 'the budget would be overrun' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$""",
    """CREATE TRIGGER budget_periods_kept BEFORE UPDATE ON budget_periods FOR EACH ROW
    WHEN (NEW.committed > OLD.committed) EXECUTE FUNCTION ironyard_budget_kept()""",
    """ALTER TABLE reservations ADD CONSTRAINT ex_reservations_overlap
    EXCLUDE USING gist (gpu_id WITH =, tstzrange(starts_at, free_at, '[)') WITH &&)
    WHERE (closed_at IS NULL)""",
    """CREATE TRIGGER reservations_closed_once BEFORE UPDATE ON reservations FOR EACH ROW
    WHEN (OLD.closed_at IS NOT NULL OR NEW.closed_at IS NULL OR {booking_changed})
    EXECUTE FUNCTION ironyard_refuse('a reservation is closed once and never edited')""",
    """CREATE TRIGGER reservations_kept BEFORE DELETE ON reservations FOR EACH ROW
    EXECUTE FUNCTION ironyard_refuse('a reservation is never deleted')""",
    """CREATE TRIGGER reservations_not_emptied BEFORE TRUNCATE ON reservations
    EXECUTE FUNCTION ironyard_refuse('a reservation is never deleted')""",
    f"""CREATE FUNCTION ironyard_gpu_booked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Locked first: a statement that had to wait would count as of before it waited.
    PERFORM 1 FROM gpus WHERE id = NEW.gpu_id FOR NO KEY UPDATE;
    UPDATE gpus SET booked_from = {BOOKED} WHERE id = NEW.gpu_id;
    RETURN NULL;
END $$""",
    """CREATE TRIGGER reservations_booked AFTER INSERT OR UPDATE ON reservations FOR EACH ROW
    EXECUTE FUNCTION ironyard_gpu_booked()""",
    f"""CREATE TRIGGER gpus_not_double_booked BEFORE UPDATE ON gpus FOR EACH ROW
    WHEN ({IN_THE_WAY} AND (NEW.held_by, NEW.held_until, NEW.booked_from) IS DISTINCT FROM
        (OLD.held_by, OLD.held_until, OLD.booked_from))
    EXECUTE FUNCTION ironyard_refuse('the GPU is reserved at that time')""",
    """CREATE TRIGGER rates_kept BEFORE UPDATE OR DELETE ON rates FOR EACH ROW
    EXECUTE FUNCTION ironyard_refuse('a price is only appended to')""",
    """CREATE TRIGGER rates_not_emptied BEFORE TRUNCATE ON rates
    EXECUTE FUNCTION ironyard_refuse('a price is only appended to')""",
)

SQLITE = (
    """CREATE TRIGGER holds_closed_once BEFORE UPDATE ON holds
    WHEN OLD.ended_at IS NOT NULL OR NEW.ended_at IS NULL OR {hold_changed}
    BEGIN SELECT RAISE(ABORT, 'a hold is closed once and never edited'); END""",
    f"""CREATE TRIGGER holds_counted_in AFTER INSERT ON holds WHEN NEW.ended_at IS NULL
    BEGIN UPDATE quotas SET used = used + 1
        WHERE resource = 'gpus' AND model IN ('', NEW.model) AND {SCOPES}; END""",
    f"""CREATE TRIGGER holds_counted_out AFTER UPDATE ON holds
    WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
    BEGIN UPDATE quotas SET used = used - 1
        WHERE resource = 'gpus' AND model IN ('', NEW.model) AND {SCOPES}; END""",
    f"""CREATE TRIGGER quotas_counted AFTER INSERT ON quotas WHEN NEW.resource = 'gpus'
    BEGIN
        UPDATE quotas SET hard_limit = NULL, used = {COUNT}
        WHERE scope_id = NEW.scope_id AND resource = NEW.resource AND model = NEW.model;
        UPDATE quotas SET hard_limit = NEW.hard_limit
        WHERE scope_id = NEW.scope_id AND resource = NEW.resource AND model = NEW.model;
    END""",
    """CREATE TRIGGER quotas_kept BEFORE UPDATE ON quotas
    WHEN NEW.used > OLD.used AND NEW.used > NEW.hard_limit
    BEGIN SELECT RAISE(ABORT, 'the quota would be overrun'); END""",
    """CREATE TRIGGER budget_periods_kept BEFORE UPDATE ON budget_periods
    WHEN NEW.committed > OLD.committed AND NEW.committed > (SELECT hard_limit FROM budgets
        WHERE scope_id = NEW.scope_id AND resource = NEW.resource)
    BEGIN SELECT RAISE(ABORT, 'the budget would be overrun'); END""",
    """CREATE TRIGGER reservations_no_overlap BEFORE INSERT ON reservations
    WHEN NEW.closed_at IS NULL AND EXISTS (SELECT 1 FROM reservations WHERE gpu_id = NEW.gpu_id
        AND closed_at IS NULL AND starts_at < NEW.free_at AND NEW.starts_at < free_at)
    BEGIN SELECT RAISE(ABORT, 'the GPU is reserved at that time'); END""",
    """CREATE TRIGGER reservations_closed_once BEFORE UPDATE ON reservations
    WHEN OLD.closed_at IS NOT NULL OR NEW.closed_at IS NULL OR {booking_changed}
    BEGIN SELECT RAISE(ABORT, 'a reservation is closed once and never edited'); END""",
    """CREATE TRIGGER reservations_kept BEFORE DELETE ON reservations
    BEGIN SELECT RAISE(ABORT, 'a reservation is never deleted'); END""",
    f"""CREATE TRIGGER reservations_booked AFTER INSERT ON reservations
    BEGIN UPDATE gpus SET booked_from = {BOOKED} WHERE id = NEW.gpu_id; END""",
    f"""CREATE TRIGGER reservations_unbooked AFTER UPDATE ON reservations
    BEGIN UPDATE gpus SET booked_from = {BOOKED} WHERE id = NEW.gpu_id; END""",
    f"""CREATE TRIGGER gpus_not_double_booked BEFORE UPDATE ON gpus
    WHEN {IN_THE_WAY} AND (NEW.held_by IS NOT OLD.held_by OR NEW.held_until IS NOT OLD.held_until
        OR NEW.booked_from IS NOT OLD.booked_from)
    BEGIN SELECT RAISE(ABORT, 'the GPU is reserved at that time'); END""",
    """CREATE TRIGGER rates_not_edited BEFORE UPDATE ON rates
    BEGIN SELECT RAISE(ABORT, 'a price is only appended to'); END""",
    """CREATE TRIGGER rates_not_deleted BEFORE DELETE ON rates
    BEGIN SELECT RAISE(ABORT, 'a price is only appended to'); END""",
)


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    differs = "IS NOT" if sqlite else "IS DISTINCT FROM"
    for statement in SQLITE if sqlite else POSTGRESQL:
        made = statement
        for name, facts in (("{hold_changed}", HOLD_FACTS), ("{booking_changed}", BOOKING_FACTS)):
            made = made.replace(name, " OR ".join(f"NEW.{fact} {differs} OLD.{fact}" for fact in facts))
        op.execute(made)


def downgrade() -> None:
    raise RuntimeError("the promises of the ledger are not taken back; restore a backup instead")
