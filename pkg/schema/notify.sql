-- Where the server allows two-phase commit, inserts notify when their
-- transaction ends. "migrate" runs this each time, because the setting can change.
DO $notify$
DECLARE
    bell bigint := (SELECT m.bell FROM @.specwatch_meta m);
    allowed boolean := current_setting('max_prepared_transactions') <> '0';
BEGIN
    IF allowed = EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = '@.events'::regclass AND t.tgname = 'specwatch_notify_at_end') THEN
        RETURN;
    END IF;
    IF NOT allowed THEN
        DROP TRIGGER specwatch_notify_at_end ON @.events;
        RETURN;
    END IF;
    EXECUTE format('CREATE CONSTRAINT TRIGGER specwatch_notify_at_end AFTER INSERT ON @.events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (pg_catalog.current_setting(''max_prepared_transactions'') <> ''0'' AND '
        '(CASE WHEN pg_catalog.pg_try_advisory_lock(%1$s) THEN pg_catalog.pg_advisory_unlock(%1$s) ELSE false END) IS NOT TRUE) EXECUTE FUNCTION @.specwatch_notify_at_end()', bell);
END
$notify$;
