-- Nothing here locks the events table.

-- The roles of this schema: roles || '_reader' and roles || '_writer'.
ALTER TABLE @.specwatch_meta ADD COLUMN IF NOT EXISTS roles text NOT NULL DEFAULT 'specwatch';

-- Tables that other programs made may have rows with NULL. NULL counts as the
-- empty kind, as readers receive it; rows without a session or spec belong to
-- none.
CREATE OR REPLACE FUNCTION @.specwatch_roll_up(most integer) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
        SELECT coalesce(e.kind, '') AS kind, @.specwatch_finite(e.at) AS at, e.session, e.spec, (e.kind = 'spec_failed' AND e.data ->> 'reason' = 'usage limit') IS TRUE AS limited FROM @.events e
        WHERE e.xid IS NOT NULL AND e.xid >= first AND e.xid < top AND pg_visible_in_snapshot(e.xid, reached)
        UNION ALL
        SELECT coalesce(e.kind, ''), @.specwatch_finite(e.at), e.session, e.spec, (e.kind = 'spec_failed' AND e.data ->> 'reason' = 'usage limit') IS TRUE FROM pg_snapshot_xip(old) x, LATERAL (SELECT * FROM @.events e WHERE e.xid = x AND e.xid IS NOT NULL OFFSET 0) e
        WHERE pg_visible_in_snapshot(x, reached)
        UNION ALL
        SELECT coalesce(e.kind, ''), @.specwatch_finite(e.at), e.session, e.spec, (e.kind = 'spec_failed' AND e.data ->> 'reason' = 'usage limit') IS TRUE FROM @.events e WHERE e.xid IS NULL AND old IS NULL
    ), counted AS (
        INSERT INTO @.specwatch_counts AS c (seconds, at, kind, events, limited)
        SELECT u.seconds, date_trunc(u.unit, f.at, 'UTC'), f.kind, count(*), count(*) FILTER (WHERE f.limited)
        FROM fresh f CROSS JOIN (VALUES (60, 'minute'), (3600, 'hour'), (86400, 'day')) u (seconds, unit) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (seconds, at, kind) DO UPDATE SET events = c.events + excluded.events, limited = c.limited + excluded.limited
    ), named AS (
        INSERT INTO @.specwatch_names AS n (session, spec, first, last, changed)
        SELECT f.session, f.spec, min(f.at), max(f.at), max(f.at) FILTER (WHERE f.kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'intervention_answered'))
        FROM fresh f WHERE f.session IS NOT NULL AND f.spec IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (session, spec) DO UPDATE
        SET first = least(n.first, excluded.first), last = greatest(n.last, excluded.last), changed = greatest(n.changed, excluded.changed)
    )
    SELECT count(*) INTO added FROM fresh;
    UPDATE @.specwatch_rollup SET seen = reached, system_identifier = known, rolled = clock_timestamp();
    RETURN added;
END
$$;

CREATE OR REPLACE FUNCTION @.specwatch_take_out() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
        SELECT u.seconds, date_trunc(u.unit, @.specwatch_finite(g.at), 'UTC') AS at, coalesce(g.kind, '') AS kind, count(*) AS events,
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
               max(@.specwatch_finite(g.at)) FILTER (WHERE g.kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'intervention_answered')) AS changed
        FROM gone g WHERE g.session IS NOT NULL AND g.spec IS NOT NULL GROUP BY 1, 2
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

-- Where the server allows two-phase commit, notifies only if this is surely
-- the commit of a transaction, because one that has notified cannot be
-- prepared: at a COMMIT, or at the end of a message that is a transaction of
-- its own. A trigger that SET CONSTRAINTS makes run early, in the middle of a
-- transaction, is neither. There is no current query at the end of messages of
-- the extended protocol. What commits in other ways is found by polling.
DO $migration$
DECLARE
    bell bigint := (SELECT m.bell FROM @.specwatch_meta m);
BEGIN
    EXECUTE 'CREATE OR REPLACE FUNCTION @.specwatch_notify_at_end() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS ' || quote_literal(format($f$
        BEGIN
            IF (CASE WHEN pg_catalog.pg_try_advisory_lock(%1$s) THEN pg_catalog.pg_advisory_unlock(%1$s) ELSE false END) IS NOT TRUE
                AND coalesce(current_query() ~* '^[[:space:]]*(commit|end)[[:>:]][^;]*;?[[:space:]]*$'
                    OR transaction_timestamp() = statement_timestamp() AND current_query() !~* '[[:<:]](begin|start|chain)[[:>:]]', true) THEN
                PERFORM pg_notify('specwatch_%1$s', '');
            END IF;
            RETURN NULL;
        END
        $f$, bell));
END
$migration$;

-- Everybody may execute a new function. These are executed as their owner by
-- triggers and by other functions; grants.sql says who else may.
REVOKE ALL ON FUNCTION @.specwatch_take_out(), @.specwatch_void_rollups(), @.specwatch_notify(), @.specwatch_notify_at_end(),
    @.specwatch_finite(timestamptz), @.specwatch_roll_up(integer), @.specwatch_system_identifier(), @.specwatch_standby_timeline() FROM PUBLIC;
