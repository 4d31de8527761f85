"""The common claim as one function of PostgreSQL, so that it costs one round trip."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What a free GPU must be like; the order and the conditions are those of api/fleet/placement.py.
FITS = """g.schedulable AND g.held_by IS NULL AND (g.booked_from IS NULL OR g.booked_from >= _until)
            AND (_model IS NULL OR g.model = _model) AND (_memory IS NULL OR g.memory_mib >= _memory)
            AND (_region IS NULL OR g.region = _region)"""
TAKE = """SET held_by = _allocation, held_until = _until FROM picked p, hosts h
            WHERE g.id = p.id AND h.id = g.host_id
            RETURNING g.id, g.host_id, h.name AS host, g."index", g.uuid, g.model, g.memory_mib, g.region,
                GREATEST(g.free_since, h.state_since) AS since"""
CLAIM = f"""
CREATE FUNCTION ironyard_claim(
    _allocation uuid, _workspace_id uuid, _slug text, _user uuid, _who text, _operates boolean,
    _want integer, _model text, _memory integer, _region text,
    _at timestamptz, _expires timestamptz, _ends timestamptz, _until timestamptz, _duration integer,
    _wanted jsonb, _priority integer, _preemptible boolean, _currency text, _ids uuid[],
    _key uuid, _address text, _request text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    w record; l record; opening record;
    scopes uuid[]; tried uuid; used_ids integer := 0; opened uuid[] := '{{}}';
    taken jsonb := '[]'; part jsonb; began timestamptz := _at; price numeric; why jsonb;
BEGIN
    SELECT s.id, s.slug, s.organisation_id, s.approval, m.id AS member_id, m.role INTO w
        FROM workspaces s LEFT JOIN memberships m ON m.workspace_id = s.id AND m.user_id = _user
        WHERE CASE WHEN _workspace_id IS NULL THEN s.slug = _slug ELSE s.id = _workspace_id END;
    IF NOT FOUND OR (NOT _operates AND COALESCE(w.role, '') NOT IN ('owner', 'admin', 'member'))
        OR w.approval <> 'none' THEN
        RETURN NULL;
    END IF;
    scopes := ARRAY[w.id, w.organisation_id, w.member_id];
    FOR l IN SELECT q.model, q.hard_limit, q.soft_limit, q.used, q.budgeted FROM quotas q
        WHERE q.scope_id = ANY (scopes) AND q.resource = 'gpus'
        ORDER BY q.scope_id, q.model FOR UPDATE
    LOOP
        IF (l.model = '' AND l.used + _want > l.hard_limit) OR l.soft_limit IS NOT NULL OR l.budgeted THEN
            RETURN NULL;
        END IF;
    END LOOP;
    IF NOT FOUND
        OR EXISTS (SELECT 1 FROM approval_rules)
        OR EXISTS (SELECT 1 FROM allocations a WHERE a.state = 'queued')
        OR EXISTS (SELECT 1 FROM reservations r WHERE r.workspace_id = w.id AND r.closed_at IS NULL)
        OR (EXISTS (SELECT 1 FROM quotas q WHERE q.scope_id = w.organisation_id AND q.resource = 'gpus'
                AND q.hard_limit IS NOT NULL)
            AND EXISTS (SELECT 1 FROM reservations r JOIN workspaces s ON s.id = r.workspace_id
                WHERE s.organisation_id = w.organisation_id AND r.closed_at IS NULL))
    THEN
        RETURN NULL;
    END IF;

    WITH picked AS (
        SELECT g.id FROM gpus g WHERE g.host_lent AND {FITS}
        ORDER BY g.host_id, g."index" LIMIT _want FOR UPDATE SKIP LOCKED
    ), done AS (UPDATE gpus g {TAKE})
    SELECT COALESCE(jsonb_agg(to_jsonb(d) ORDER BY d.host_id, d."index"), '[]'),
            GREATEST(began, max(d.since))
        INTO taken, began FROM done d;

    WHILE jsonb_array_length(taken) < _want LOOP
        SELECT g.host_id INTO tried FROM gpus g WHERE NOT g.host_lent AND {FITS}
            AND (tried IS NULL OR g.host_id > tried) ORDER BY g.host_id, g."index" LIMIT 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'too few GPUs are free' USING ERRCODE = 'IY001';
        END IF;
        SELECT i.id, i.state_since INTO opening FROM hosts i WHERE i.id = tried AND i.state = 'idle'
            FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        WITH picked AS (
            SELECT g.id FROM gpus g WHERE g.host_id = tried AND {FITS}
            ORDER BY g."index" LIMIT _want - jsonb_array_length(taken) FOR UPDATE
        ), done AS (UPDATE gpus g {TAKE})
        SELECT COALESCE(jsonb_agg(to_jsonb(d) ORDER BY d."index"), '[]'), GREATEST(began, max(d.since))
            INTO part, began FROM done d;
        CONTINUE WHEN jsonb_array_length(part) = 0;
        UPDATE gpus SET host_lent = true WHERE host_id = tried;
        UPDATE hosts SET state = 'allocated', state_since = GREATEST(_at, opening.state_since)
            WHERE id = tried;
        UPDATE host_periods SET ended_at = GREATEST(_at, opening.state_since)
            WHERE host_id = tried AND ended_at IS NULL;
        INSERT INTO host_periods (id, host_id, state, started_at)
            VALUES (_ids[used_ids + 1], tried, 'allocated', GREATEST(_at, opening.state_since));
        INSERT INTO audit_events (id, at, actor, actor_id, key_id, action, subject_id, before, after, address,
                request_id)
            VALUES (_ids[used_ids + 2], _at, _who, _user, _key, 'host.claimed', tried,
                '{{"state": "idle"}}', '{{"state": "allocated"}}', _address, _request);
        used_ids := used_ids + 2;
        taken := taken || part;
        opened := opened || tried;
    END LOOP;

    why := (SELECT jsonb_build_object('policy', 'pack', 'hosts', jsonb_agg(jsonb_build_object(
                'host', c.host, 'gpus', c.gpus,
                'because', CASE WHEN c.host_id = ANY (opened)
                    THEN 'it was idle: no partly used host had enough that match'
                    ELSE 'it was partly used: its free GPUs go first' END) ORDER BY c.host_id))
        FROM (SELECT x.host_id, x.host, count(*) AS gpus
            FROM jsonb_to_recordset(taken) AS x(host_id uuid, host text) GROUP BY 1, 2) c);
    IF EXISTS (SELECT 1 FROM rates) THEN
        SELECT jsonb_agg(x.gpu || jsonb_build_object('rate', (
                SELECT r.per_gpu_hour FROM rates r
                WHERE r.model IN (x.gpu->>'model', '') AND r.region IN (x.gpu->>'region', '')
                    AND r.effective_from <= began
                ORDER BY r.model <> '' DESC, r.region <> '' DESC, r.effective_from DESC LIMIT 1))
                ORDER BY x.n)
            INTO taken FROM jsonb_array_elements(taken) WITH ORDINALITY AS x(gpu, n);
        price := (SELECT sum((x->>'rate')::numeric) FROM jsonb_array_elements(taken) x);
    END IF;
    INSERT INTO allocations (id, workspace_id, requested_by_id, requested_by, state, wanted, why,
            created_at, duration_seconds, started_at, expires_at, ends_at, priority, preemptible,
            price_per_hour, currency)
        VALUES (_allocation, w.id, _user, _who, 'active', _wanted, why,
            _at, _duration, began, _expires, _ends, _priority, _preemptible,
            price, CASE WHEN price IS NULL THEN NULL ELSE _currency END);
    INSERT INTO holds (id, allocation_id, workspace_id, user_id, gpu_id, host_id, model, rate, started_at)
        SELECT _ids[used_ids + x.n], _allocation, w.id, _user, (x.gpu->>'id')::uuid,
            (x.gpu->>'host_id')::uuid, x.gpu->>'model', (x.gpu->>'rate')::numeric, began
        FROM jsonb_array_elements(taken) WITH ORDINALITY AS x(gpu, n);
    INSERT INTO audit_events (id, at, actor, actor_id, key_id, action, subject_id, after, address, request_id)
        VALUES (_ids[used_ids + _want + 1], _at, _who, _user, _key, 'allocation.claimed', _allocation,
            jsonb_build_object('workspace', w.slug, 'gpus',
                (SELECT jsonb_agg(x->'uuid') FROM jsonb_array_elements(taken) x)), _address, _request);
    RETURN jsonb_build_object('workspace_id', w.id, 'workspace', w.slug, 'started_at', began, 'gpus', taken,
        'why', why, 'price', price::text);
END $$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.execute(CLAIM)


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION ironyard_claim")
