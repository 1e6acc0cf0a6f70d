-- PostgreSQL parses the condition of each trigger anew for each insert, so the
-- conditions are short, and the trigger for two-phase commit exists only where
-- the server allows that. notify.sql creates it.
DO $migration$
DECLARE
    bell bigint := (SELECT m.bell FROM @.specwatch_meta m);
    listening text := format('(CASE WHEN pg_catalog.pg_try_advisory_lock(%1$s) THEN pg_catalog.pg_advisory_unlock(%1$s) ELSE false END) IS NOT TRUE', bell);
BEGIN
    -- A transaction that has notified cannot be prepared.
    EXECUTE 'CREATE OR REPLACE FUNCTION @.specwatch_notify() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS ' || quote_literal(format($f$
        BEGIN
            IF current_setting('max_prepared_transactions') = '0' AND %s THEN
                PERFORM pg_notify('specwatch_%s', '');
            END IF;
            RETURN NULL;
        END
        $f$, listening, bell));
    DROP TRIGGER specwatch_notify ON @.events;
    DROP TRIGGER specwatch_notify_at_end ON @.events;
    EXECUTE format('CREATE TRIGGER specwatch_notify AFTER INSERT ON @.events FOR EACH STATEMENT WHEN (%s) EXECUTE FUNCTION @.specwatch_notify()', listening);
END
$migration$;
