-- Built beside writers, so not in a transaction: statements are separated by
-- empty lines. What an interrupted migration left half built goes first.
DO $migration$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE i.indrelid = '@.events'::regclass AND NOT i.indisvalid AND c.relname IN ('specwatch_events_session', 'specwatch_events_timeline') LOOP
        EXECUTE 'DROP INDEX ' || name;
    END LOOP;
END
$migration$;

-- One session's events, and the first or the last of them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS specwatch_events_session ON @.events (session, at, id);

-- What starts and ends a spec, or asks for a person.
CREATE INDEX CONCURRENTLY IF NOT EXISTS specwatch_events_timeline ON @.events (session, spec, at, id)
    WHERE kind IN ('spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'intervention_answered');
