-- Least-privilege roles, brought up to date after every migration. They cannot
-- log in: grant them to those who may. A role belongs to the whole server, so
-- schemas that name the same roles share them.
DO $grants$
DECLARE
    schema text := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = '@.events'::regclass);
    prefix text := (SELECT m.roles FROM @.specwatch_meta m);
    reader text := prefix || '_reader';
    writer text := prefix || '_writer';
    name text;
    given record;
    sequence text := pg_get_serial_sequence('@.events', 'id');
BEGIN
    -- Everybody may read comments, also those who must be told which role lets
    -- them read the table.
    IF coalesce(col_description('@.specwatch_meta'::regclass, (SELECT attnum FROM pg_attribute WHERE attrelid = '@.specwatch_meta'::regclass AND attname = 'roles')), 'specwatch') <> prefix THEN
        EXECUTE format('COMMENT ON COLUMN @.specwatch_meta.roles IS %L', prefix);
    END IF;
    -- ALTER DEFAULT PRIVILEGES may give others rights on every new table or
    -- function. Specwatch's own are for its roles; a table of events that holds
    -- none was made just now, so nobody has granted anything on it on purpose.
    -- Owners of mirrored tables have rights that `specwatch mirror` gave them.
    FOR given IN
        SELECT DISTINCT c.oid::regclass AS relation, c.relkind, a.grantee
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE (c.oid IN ('@.specwatch_meta'::regclass, '@.specwatch_migrations'::regclass, '@.specwatch_pruned'::regclass, '@.specwatch_mirrors'::regclass, '@.specwatch_rollup'::regclass, '@.specwatch_counts'::regclass, '@.specwatch_names'::regclass, '@.specwatch_overview'::regclass, pg_get_serial_sequence('@.specwatch_migrations', 'id')::regclass)
               OR c.oid IN ('@.events'::regclass, sequence::regclass, '@.specwatch_unmapped'::regclass) AND NOT EXISTS (SELECT FROM @.events) AND NOT EXISTS (SELECT FROM @.specwatch_mirrors))
          AND a.grantee <> c.relowner AND a.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname IN (reader, writer))
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', CASE WHEN given.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, given.relation,
            CASE WHEN given.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
    END LOOP;
    FOR given IN
        SELECT DISTINCT p.oid::regprocedure AS function, a.grantee
        FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE p.oid IN ('@.specwatch_roll_up(integer)'::regprocedure, '@.specwatch_take_out()'::regprocedure, '@.specwatch_void_rollups()'::regprocedure, '@.specwatch_notify()'::regprocedure, '@.specwatch_notify_at_end()'::regprocedure,
                        '@.specwatch_finite(timestamptz)'::regprocedure, '@.specwatch_system_identifier()'::regprocedure, '@.specwatch_standby_timeline()'::regprocedure)
          AND a.grantee <> p.proowner AND a.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname IN (reader, writer))
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', given.function, CASE WHEN given.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
    END LOOP;
    FOREACH name IN ARRAY ARRAY[reader, writer] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name) THEN
            IF NOT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
                RAISE NOTICE 'the role % was not made, because % may not make roles; run as an administrator: CREATE ROLE % NOLOGIN, and then: specwatch migrate', name, current_user, quote_ident(name);
                CONTINUE;
            END IF;
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another migration of this cluster was faster
            END;
        END IF;
        IF NOT has_schema_privilege(name, schema, 'USAGE') THEN
            IF has_schema_privilege(schema, 'USAGE WITH GRANT OPTION') THEN
                EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, name);
            ELSE
                RAISE NOTICE 'the role % may not use the schema %; run as its owner: GRANT USAGE ON SCHEMA % TO %', name, schema, quote_ident(schema), quote_ident(name);
            END IF;
        END IF;
        IF name = reader THEN
            EXECUTE format('GRANT SELECT ON @.events, @.specwatch_pruned, @.specwatch_meta, @.specwatch_migrations, @.specwatch_rollup, @.specwatch_counts, @.specwatch_names, @.specwatch_overview TO %I', name);
            EXECUTE format('GRANT EXECUTE ON FUNCTION @.specwatch_system_identifier(), @.specwatch_standby_timeline() TO %I', name);
        ELSE
            EXECUTE format('REVOKE SELECT ON @.specwatch_meta, @.specwatch_migrations FROM %I', name); -- version 0.2 granted them
            EXECUTE format('GRANT INSERT (kind, at, session, spec, data, key), SELECT (id, key) ON @.events TO %I', name);
            EXECUTE format('GRANT EXECUTE ON FUNCTION @.specwatch_roll_up(integer) TO %I', name);
            IF sequence IS NOT NULL THEN
                EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', sequence, name);
            END IF;
        END IF;
    END LOOP;
END
$grants$;
