-- Waiting here would hold up every writer that comes later.
SET LOCAL lock_timeout = '5s';

-- Whether the writer's commit may be seen before it is flushed to disk. A
-- reader delivers such a row only once it is flushed: a crash can take it back
-- and give its transaction id to another.
ALTER TABLE @.events ADD COLUMN IF NOT EXISTS async_commit boolean NOT NULL DEFAULT false;
ALTER TABLE @.events ALTER COLUMN async_commit SET DEFAULT (current_setting('synchronous_commit') = 'off');

-- When the database stored it, by its own clock. A writer's clock may be wrong.
ALTER TABLE @.events ADD COLUMN IF NOT EXISTS stored timestamptz;
ALTER TABLE @.events ALTER COLUMN stored SET DEFAULT clock_timestamp();

-- Answers, and kinds of the writer's own: any name with a dot.
ALTER TABLE @.events DROP CONSTRAINT specwatch_kind;
ALTER TABLE @.events ADD CONSTRAINT specwatch_kind CHECK (kind IS NOT NULL AND octet_length(kind) <= 512 AND (position('.' in kind) > 0 OR kind IN (
    'spec_started', 'spec_completed', 'spec_failed', 'intervention_request', 'intervention_answered', 'timeout_triggered', 'session_heartbeat'))) NOT VALID;

-- Up to when rows may have been removed by prune. A cursor names a row that
-- its reader was given; one that is missing and younger shows that an older
-- state of the table was put back.
ALTER TABLE @.specwatch_meta ADD COLUMN pruned_before timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00';
-- How many events prune has removed. A reader that counts for itself counts
-- anew when it changes: some of them it may not have read.
ALTER TABLE @.specwatch_meta ADD COLUMN pruned bigint NOT NULL DEFAULT 0;

-- Committing a notification takes a lock that all committers of the cluster
-- queue for, so inserts notify only while a reader holds the shared advisory
-- lock. Two writers can meet at that lock, so the functions look once more.
--
-- A transaction that has notified cannot be prepared. Where the server allows
-- two-phase commit the notification waits for the end of the transaction,
-- which tells a commit from PREPARE TRANSACTION; readers find what was
-- prepared without it.
DO $migration$
DECLARE
    bell bigint := (SELECT m.bell FROM @.specwatch_meta m);
    listening text := format('(CASE WHEN pg_catalog.pg_try_advisory_lock(%1$s) THEN pg_catalog.pg_advisory_unlock(%1$s) ELSE false END) IS NOT TRUE', bell);
    prepares text := $s$pg_catalog.current_setting('max_prepared_transactions') <> '0'$s$;
    function text := 'LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS ';
    body text := format($f$
        BEGIN
            IF %s AND %%s THEN
                PERFORM pg_notify('specwatch_%s', '');
            END IF;
            RETURN NULL;
        END
        $f$, listening, bell);
BEGIN
    DROP TRIGGER IF EXISTS specwatch_bell ON @.events;
    DROP FUNCTION IF EXISTS @.specwatch_ring();
    EXECUTE 'CREATE FUNCTION @.specwatch_notify() RETURNS trigger ' || function || quote_literal(format(body, 'true'));
    EXECUTE 'CREATE FUNCTION @.specwatch_notify_at_end() RETURNS trigger ' || function
        || quote_literal(format(body, $s$coalesce(current_query(), '') !~* '(prepare\s+transaction|set\s+constraints)'$s$));
    EXECUTE format('CREATE TRIGGER specwatch_notify AFTER INSERT ON @.events FOR EACH STATEMENT WHEN (NOT (%s) AND %s) EXECUTE FUNCTION @.specwatch_notify()', prepares, listening);
    EXECUTE format('CREATE CONSTRAINT TRIGGER specwatch_notify_at_end AFTER INSERT ON @.events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (%s AND %s) EXECUTE FUNCTION @.specwatch_notify_at_end()', prepares, listening);
END
$migration$;
