-- Least-privilege roles, brought up to date after every migration. They are
-- shared by the whole cluster and cannot log in: grant them to those who may.
DO $grants$
DECLARE
    schema text := current_schema();
    name text;
    sequence text := pg_get_serial_sequence('events', 'id');
BEGIN
    FOREACH name IN ARRAY ARRAY['specwatch_reader', 'specwatch_writer'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name) THEN
            IF NOT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
                RAISE NOTICE 'role % was not created: % may not create roles', name, current_user;
                CONTINUE;
            END IF;
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another migration of this cluster was faster
            END;
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, name);
        EXECUTE format('GRANT SELECT ON specwatch_meta, specwatch_migrations TO %I', name);
        IF name = 'specwatch_reader' THEN
            EXECUTE format('GRANT SELECT ON events, specwatch_pruned TO %I', name);
        ELSE
            EXECUTE format('GRANT INSERT (kind, at, session, spec, data, key), SELECT (id, key) ON events TO %I', name);
            IF sequence IS NOT NULL THEN
                EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', sequence, name);
            END IF;
        END IF;
    END LOOP;
END
$grants$;
