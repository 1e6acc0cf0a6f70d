-- Rollups: aggregates of the events that the snapshot `seen` contains. A
-- question is answered from them and from the events that `seen` lacks, so the
-- answer is that of the whole table. NULL: there are none, and every answer
-- comes from the events alone. xids mean something in one cluster only.
CREATE TABLE @.specwatch_rollup (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    seen              pg_snapshot,
    system_identifier bigint,
    rolled            timestamptz -- when they were last brought on
);
INSERT INTO @.specwatch_rollup DEFAULT VALUES;

-- How many events of a kind lie in the minute, hour or day (`seconds` long)
-- that begins at `at`, and how many of them are ends by a limit of usage.
CREATE TABLE @.specwatch_counts (
    seconds integer     NOT NULL,
    at      timestamptz NOT NULL,
    kind    text        NOT NULL,
    events  bigint      NOT NULL,
    limited bigint      NOT NULL,
    PRIMARY KEY (seconds, at, kind)
) WITH (fillfactor = 70);

-- The first and the last event of a spec of a session, and the last that
-- changes what a timeline shows of it.
CREATE TABLE @.specwatch_names (
    session text        NOT NULL,
    spec    text        NOT NULL,
    first   timestamptz NOT NULL,
    last    timestamptz NOT NULL,
    changed timestamptz,
    PRIMARY KEY (session, spec)
) WITH (fillfactor = 70);

-- The overview as a gateway last kept it, so that the next one begins there.
CREATE TABLE @.specwatch_overview (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    format  integer NOT NULL,
    cursor  text    NOT NULL,
    pruned  bigint  NOT NULL, -- what prune had removed by then
    summary bytea   NOT NULL,
    kept    timestamptz NOT NULL DEFAULT now()
);

-- An event's time as aggregates take it: of a finite year.
CREATE FUNCTION @.specwatch_finite(at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    $$ SELECT least(greatest(at, '0001-01-01 00:00:01+00'::timestamptz), '9999-12-31 23:59:59.999999+00'::timestamptz) $$;

-- Adds up to `most` events (more, where one transaction wrote more) to the
-- rollups, and returns how many; NULL: another session does it now.
CREATE FUNCTION @.specwatch_roll_up(most integer) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old     pg_snapshot;
    system  bigint;
    known   bigint := @.specwatch_system_identifier();
    own     xid8 := pg_current_xact_id(); -- before the snapshot below is taken
    current pg_snapshot;
    first   xid8; -- of the transactions that are read in order
    page    xid8; -- the last of them, where there are more events than `most`
    top     xid8; -- the first that is left for later
    reached pg_snapshot;
    added   bigint;
BEGIN
    SELECT r.seen, r.system_identifier INTO old, system FROM @.specwatch_rollup r FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF old IS NULL OR system <> known THEN
        DELETE FROM @.specwatch_counts;
        DELETE FROM @.specwatch_names;
        old := NULL;
    END IF;
    first := coalesce(pg_snapshot_xmax(old), '1'::xid8);
    current := pg_current_snapshot();
    -- A crash gives out no xid again below that of this transaction, which is
    -- in the log by then. Nothing is claimed beyond.
    top := least(own, pg_snapshot_xmax(current));
    SELECT e.xid INTO page FROM @.events e WHERE e.xid IS NOT NULL AND e.xid >= first AND e.xid < top ORDER BY e.xid OFFSET most LIMIT 1;
    IF page IS NOT NULL THEN
        top := (page::text::bigint + 1)::text::xid8;
    END IF;
    SELECT format('%s:%s:%s', coalesce(min(x::text::bigint)::text, top::text), top, string_agg(x::text, ',' ORDER BY x::text::bigint))::pg_snapshot
    INTO reached FROM pg_snapshot_xip(current) x WHERE x < top;
    WITH fresh AS MATERIALIZED (
        SELECT e.kind, @.specwatch_finite(e.at) AS at, e.session, e.spec, (e.kind = 'spec_failed' AND e.data ->> 'reason' = 'usage limit') IS TRUE AS limited FROM @.events e
        WHERE e.xid IS NOT NULL AND e.xid >= first AND e.xid < top AND pg_visible_in_snapshot(e.xid, reached)
        UNION ALL
        SELECT e.kind, @.specwatch_finite(e.at), e.session, e.spec, (e.kind = 'spec_failed' AND e.data ->> 'reason' = 'usage limit') IS TRUE FROM pg_snapshot_xip(old) x, LATERAL (SELECT * FROM @.events e WHERE e.xid = x AND e.xid IS NOT NULL OFFSET 0) e
        WHERE pg_visible_in_snapshot(x, reached)
        UNION ALL
        SELECT e.kind, @.specwatch_finite(e.at), e.session, e.spec, (e.kind = 'spec_failed' AND e.data ->> 'reason' = 'usage limit') IS TRUE FROM @.events e WHERE e.xid IS NULL AND old IS NULL
    ), counted AS (
        INSERT INTO @.specwatch_counts AS c (seconds, at, kind, events, limited)
        SELECT u.seconds, date_trunc(u.unit, f.at, 'UTC'), f.kind, count(*), count(*) FILTER (WHERE f.limited)
        FROM fresh f CROSS JOIN (VALUES (60, 'minute'), (3600, 'hour'), (86400, 'day')) u (seconds, unit) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (seconds, at, kind) DO UPDATE SET events = c.events + excluded.events, limited = c.limited + excluded.limited
    ), named AS (
        INSERT INTO @.specwatch_names AS n (session, spec, first, last, changed)
        SELECT f.session, f.spec, min(f.at), max(f.at), max(f.at) FILTER (WHERE f.kind <> 'session_heartbeat' AND position('.' IN f.kind) = 0)
        FROM fresh f GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (session, spec) DO UPDATE
        SET first = least(n.first, excluded.first), last = greatest(n.last, excluded.last), changed = greatest(n.changed, excluded.changed)
    )
    SELECT count(*) INTO added FROM fresh;
    UPDATE @.specwatch_rollup SET seen = reached, system_identifier = known, rolled = clock_timestamp();
    RETURN added;
END
$$;
REVOKE EXECUTE ON FUNCTION @.specwatch_roll_up(integer) FROM PUBLIC;

-- Takes events that are removed out of the rollups again. It waits for a step
-- of the roll-up, and the next step waits for the end of the transaction.
CREATE FUNCTION @.specwatch_take_out() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old pg_snapshot;
BEGIN
    IF NOT EXISTS (SELECT FROM gone) THEN
        RETURN NULL;
    END IF;
    SELECT r.seen INTO old FROM @.specwatch_rollup r FOR UPDATE;
    IF old IS NULL THEN
        RETURN NULL;
    END IF;
    WITH lost AS (
        SELECT u.seconds, date_trunc(u.unit, @.specwatch_finite(g.at), 'UTC') AS at, g.kind, count(*) AS events,
               count(*) FILTER (WHERE g.kind = 'spec_failed' AND g.data ->> 'reason' = 'usage limit') AS limited
        FROM gone g CROSS JOIN (VALUES (60, 'minute'), (3600, 'hour'), (86400, 'day')) u (seconds, unit)
        WHERE g.xid IS NULL OR pg_visible_in_snapshot(g.xid, old) GROUP BY 1, 2, 3
    ), emptied AS (
        DELETE FROM @.specwatch_counts c USING lost l WHERE c.seconds = l.seconds AND c.at = l.at AND c.kind = l.kind AND c.events = l.events
    )
    UPDATE @.specwatch_counts c SET events = c.events - l.events, limited = c.limited - l.limited FROM lost l
    WHERE c.seconds = l.seconds AND c.at = l.at AND c.kind = l.kind AND c.events <> l.events;
    WITH lost AS (
        SELECT g.session, g.spec, min(@.specwatch_finite(g.at)) AS first, max(@.specwatch_finite(g.at)) AS last,
               max(@.specwatch_finite(g.at)) FILTER (WHERE g.kind <> 'session_heartbeat' AND position('.' IN g.kind) = 0) AS changed
        FROM gone g GROUP BY 1, 2
    ), left_over AS (
        SELECT n.session, n.spec,
               CASE WHEN n.first < l.first THEN n.first ELSE
                   (SELECT @.specwatch_finite(e.at) FROM @.events e WHERE e.session = n.session AND e.spec = n.spec ORDER BY e.at LIMIT 1) END AS first,
               CASE WHEN n.last > l.last THEN n.last ELSE
                   (SELECT @.specwatch_finite(e.at) FROM @.events e WHERE e.session = n.session AND e.spec = n.spec ORDER BY e.at DESC LIMIT 1) END AS last,
               CASE WHEN n.changed > l.changed OR l.changed IS NULL THEN n.changed ELSE
                   (SELECT @.specwatch_finite(e.at) FROM @.events e WHERE e.session = n.session AND e.spec = n.spec
                    AND e.kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'intervention_answered')
                    ORDER BY e.at DESC LIMIT 1) END AS changed
        FROM lost l JOIN @.specwatch_names n USING (session, spec)
    ), emptied AS (
        DELETE FROM @.specwatch_names n USING left_over l WHERE n.session = l.session AND n.spec = l.spec AND l.first IS NULL
    )
    UPDATE @.specwatch_names n SET first = l.first, last = l.last, changed = l.changed FROM left_over l
    WHERE n.session = l.session AND n.spec = l.spec AND l.first IS NOT NULL;
    RETURN NULL;
END
$$;
CREATE TRIGGER specwatch_take_out AFTER DELETE ON @.events REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION @.specwatch_take_out();

-- What else changes the table makes the rollups void: they are built anew.
-- A row with another xid than its transaction's was restored.
CREATE FUNCTION @.specwatch_void_rollups() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @.specwatch_rollup SET seen = NULL WHERE seen IS NOT NULL;
    RETURN NULL;
END
$$;
CREATE TRIGGER specwatch_changed AFTER UPDATE OR TRUNCATE ON @.events FOR EACH STATEMENT EXECUTE FUNCTION @.specwatch_void_rollups();
CREATE TRIGGER specwatch_restored AFTER INSERT ON @.events FOR EACH ROW WHEN (NEW.xid IS DISTINCT FROM pg_current_xact_id()) EXECUTE FUNCTION @.specwatch_void_rollups();
