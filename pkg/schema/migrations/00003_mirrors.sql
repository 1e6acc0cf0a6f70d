-- Tables of other programs whose inserts become events. The functions and
-- triggers that do it are made by `specwatch mirror`.
CREATE TABLE @.specwatch_mirrors (
    id      integer PRIMARY KEY,
    source  text    NOT NULL UNIQUE, -- the table's name when it was mirrored; the keys of its events begin with it
    mapping jsonb   NOT NULL,
    granted text,                    -- the table's owner, where it was given rights for this
    filled  timestamptz,             -- when the rows that were there before had been brought over
    up_to   bigint                   -- of a table that version 0.2 adopted: the greatest id then
);

-- Rows of such tables that did not become events. Writers only insert here,
-- so that no two of them wait for each other.
CREATE TABLE @.specwatch_unmapped (
    mirror  integer     NOT NULL,
    xid     xid8        NOT NULL DEFAULT pg_current_xact_id(),
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    rows    bigint      NOT NULL,
    reason  text        NOT NULL,
    example text                     -- the key of one of them
);

-- Some servers keep functions about themselves from users. These ask as the
-- owner of the events, and answer 0 where the owner may not know either.
CREATE FUNCTION @.specwatch_system_identifier() RETURNS bigint LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT system_identifier FROM pg_control_system());
EXCEPTION WHEN insufficient_privilege THEN
    RETURN 0;
END
$$;

CREATE FUNCTION @.specwatch_standby_timeline() RETURNS integer LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN greatest((SELECT timeline_id FROM pg_control_checkpoint()), (SELECT min_recovery_end_timeline FROM pg_control_recovery()), (SELECT received_tli FROM pg_stat_wal_receiver));
EXCEPTION WHEN insufficient_privilege THEN
    RETURN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0);
END
$$;
