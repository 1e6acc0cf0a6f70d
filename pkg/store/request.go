package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
)

// Request returns the session and spec of an intervention request, if there is
// one of that id.
func (s *Store) Request(ctx context.Context, id int64) (e event.Event, found bool, err error) {
	requests, err := Collect(ctx, s, `SELECT coalesce(session, '')::text, coalesce(spec, '')::text FROM @.events WHERE id = $1 AND kind = 'intervention_request'`, []any{id},
		func(row pgx.CollectableRow) (e event.Event, err error) {
			e.ID, e.Kind = id, event.InterventionRequest
			return e, row.Scan(&e.Session, &e.Spec)
		})
	if err != nil || len(requests) == 0 {
		return event.Event{}, false, err
	}
	return requests[0], true, nil
}

var errReadOnly = errors.New("the database is a standby, or set to read only")

// Writable reports whether this user may append events; the error says why not.
func (s *Store) Writable(ctx context.Context) error {
	type rights struct {
		readOnly, may bool
		Roles
	}
	// These are the privileges that grants.sql gives to the role of writers.
	r, err := Writing(ctx, s, func(conn *pgx.Conn) (r rights, err error) {
		err = conn.QueryRow(ctx, s.SQL(`
			SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
			       (SELECT bool_and(has_column_privilege('@.events'::regclass, name, 'INSERT')) FROM unnest(array['kind', 'at', 'session', 'spec', 'data', 'key']) name)
			       AND has_column_privilege('@.events'::regclass, 'id', 'SELECT') AND has_column_privilege('@.events'::regclass, 'key', 'SELECT')
			       AND coalesce(has_sequence_privilege(pg_get_serial_sequence('@.events', 'id'), 'USAGE'), true)`)).Scan(&r.readOnly, &r.may)
		if err == nil && !r.may {
			r.Roles, err = RolesOf(ctx, conn, s.schema)
		}
		return r, err
	})
	switch {
	case err != nil:
		return err
	case r.readOnly:
		return errReadOnly
	case !r.may:
		return fmt.Errorf("the database user may read events only; grant it the role %s, too", r.Writer)
	}
	return nil
}
