"""What the database promises by itself: no hold edited, no quota overrun, no audit rewritten."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

HOLD_FACTS = ("id", "allocation_id", "workspace_id", "gpu_id", "host_id", "model", "started_at")

POSTGRESQL = (
    """CREATE EXTENSION IF NOT EXISTS btree_gist""",
    """ALTER TABLE holds ADD CONSTRAINT ex_holds_overlap
    EXCLUDE USING gist (gpu_id WITH =, tstzrange(started_at, ended_at, '[)') WITH &&)""",
    """CREATE FUNCTION ironyard_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% refused on %: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'check_violation';
END $$""",
    """CREATE FUNCTION ironyard_hold_opened() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE quotas SET gpus_held = gpus_held + 1
        WHERE workspace_id = NEW.workspace_id AND model IN ('', NEW.model);
    RETURN NULL;
END $$""",
    """CREATE FUNCTION ironyard_hold_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE quotas SET gpus_held = gpus_held - 1
        WHERE workspace_id = NEW.workspace_id AND model IN ('', NEW.model);
    RETURN NULL;
END $$""",
    """CREATE FUNCTION ironyard_quota_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.gpus_held := (SELECT count(*) FROM holds
        WHERE workspace_id = NEW.workspace_id AND NEW.model IN ('', model) AND ended_at IS NULL);
    RETURN NEW;
END $$""",
    """CREATE TRIGGER holds_closed_once BEFORE UPDATE ON holds FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL OR NEW.ended_at IS NULL OR {changed})
    EXECUTE FUNCTION ironyard_refuse('a hold is closed once and never edited')""",
    """CREATE TRIGGER holds_kept BEFORE DELETE ON holds FOR EACH ROW
    EXECUTE FUNCTION ironyard_refuse('a hold is never deleted')""",
    """CREATE TRIGGER holds_counted_in AFTER INSERT ON holds FOR EACH ROW
    WHEN (NEW.ended_at IS NULL) EXECUTE FUNCTION ironyard_hold_opened()""",
    """CREATE TRIGGER holds_counted_out AFTER UPDATE ON holds FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION ironyard_hold_closed()""",
    """CREATE TRIGGER quotas_counted BEFORE INSERT ON quotas FOR EACH ROW
    EXECUTE FUNCTION ironyard_quota_counts()""",
    """CREATE TRIGGER quotas_kept BEFORE UPDATE ON quotas FOR EACH ROW
    WHEN (NEW.gpus_held > OLD.gpus_held AND NEW.gpus_held > NEW.gpu_limit)
    EXECUTE FUNCTION ironyard_refuse('the quota would be overrun')""",
    """CREATE TRIGGER audit_appended BEFORE UPDATE OR DELETE ON audit_events FOR EACH ROW
    EXECUTE FUNCTION ironyard_refuse('the audit trail is only appended to')""",
    """CREATE TRIGGER audit_kept BEFORE TRUNCATE ON audit_events
    EXECUTE FUNCTION ironyard_refuse('the audit trail is only appended to')""",
    """CREATE TRIGGER holds_not_emptied BEFORE TRUNCATE ON holds
    EXECUTE FUNCTION ironyard_refuse('a hold is never deleted')""",
)

SQLITE = (
    """CREATE TRIGGER holds_closed_once BEFORE UPDATE ON holds
    WHEN OLD.ended_at IS NOT NULL OR NEW.ended_at IS NULL OR {changed}
    BEGIN SELECT RAISE(ABORT, 'a hold is closed once and never edited'); END""",
    """CREATE TRIGGER holds_kept BEFORE DELETE ON holds
    BEGIN SELECT RAISE(ABORT, 'a hold is never deleted'); END""",
    """CREATE TRIGGER holds_no_overlap BEFORE INSERT ON holds
    WHEN EXISTS (SELECT 1 FROM holds WHERE gpu_id = NEW.gpu_id
        AND (ended_at IS NULL OR ended_at > NEW.started_at)
        AND (NEW.ended_at IS NULL OR started_at < NEW.ended_at))
    BEGIN SELECT RAISE(ABORT, 'the GPU is held at that time'); END""",
    """CREATE TRIGGER holds_counted_in AFTER INSERT ON holds WHEN NEW.ended_at IS NULL
    BEGIN UPDATE quotas SET gpus_held = gpus_held + 1
        WHERE workspace_id = NEW.workspace_id AND model IN ('', NEW.model); END""",
    """CREATE TRIGGER holds_counted_out AFTER UPDATE ON holds
    WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
    BEGIN UPDATE quotas SET gpus_held = gpus_held - 1
        WHERE workspace_id = NEW.workspace_id AND model IN ('', NEW.model); END""",
    """CREATE TRIGGER quotas_counted AFTER INSERT ON quotas
    BEGIN
        UPDATE quotas SET gpu_limit = 9223372036854775807, gpus_held = (SELECT count(*) FROM holds
            WHERE workspace_id = NEW.workspace_id AND NEW.model IN ('', model) AND ended_at IS NULL)
        WHERE workspace_id = NEW.workspace_id AND model = NEW.model;
        UPDATE quotas SET gpu_limit = NEW.gpu_limit
        WHERE workspace_id = NEW.workspace_id AND model = NEW.model;
    END""",
    """CREATE TRIGGER quotas_kept BEFORE UPDATE ON quotas
    WHEN NEW.gpus_held > OLD.gpus_held AND NEW.gpus_held > NEW.gpu_limit
    BEGIN SELECT RAISE(ABORT, 'the quota would be overrun'); END""",
    """CREATE TRIGGER audit_not_edited BEFORE UPDATE ON audit_events
    BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END""",
    """CREATE TRIGGER audit_not_deleted BEFORE DELETE ON audit_events
    BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END""",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        changed = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in HOLD_FACTS)
        for statement in SQLITE:
            op.execute(statement.replace("{changed}", changed))
    else:
        changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in HOLD_FACTS)
        for statement in POSTGRESQL:
            op.execute(statement.replace("{changed}", changed))


def downgrade() -> None:
    raise RuntimeError("the promises of the ledger are not taken back; restore a backup instead")
