package questions

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// StateOf returns the state of the sessions with these names, however old their
// events are. It reads all of their events except most heartbeats.
func (q Questions) StateOf(ctx context.Context, sessions []string) (state.State, error) {
	return store.Reading(ctx, q.store, func(conn *pgx.Conn) (state.State, error) {
		// Of the heartbeats, only the last one and those that report the last
		// work are needed. data is read only of these, of requests, of answers
		// and of usage limits.
		rows, err := conn.Query(ctx, q.store.SQL(`
			WITH telling AS NOT MATERIALIZED (
			    SELECT id, kind, at, session, spec, data::text AS data, `+workSQL+` FROM (
			        SELECT e.id::bigint, e.kind::text, `+store.AtSQL+` AS at, e.session::text, coalesce(e.spec, '')::text AS spec, e.data, `+store.StoredSQL+` AS stored
			        FROM @.events e WHERE session = ANY($1) AND `+tellsWork+`
			    ) e
			)
			SELECT * FROM (
			SELECT e.id::bigint, e.kind::text, `+store.AtSQL+`, e.session::text, coalesce(e.spec, '')::text,
			       CASE WHEN kind IN ('intervention_request', 'intervention_answered') OR `+limitSQL+` THEN coalesce(e.data::text, '{}') ELSE '{}' END, now()
			FROM @.events e WHERE session = ANY($1) AND kind <> 'session_heartbeat'
			UNION ALL
			(SELECT DISTINCT ON (session) id::bigint, kind::text, `+store.AtSQL+`, session::text, '', '{}', now()
			 FROM @.events e WHERE session = ANY($1) AND kind = 'session_heartbeat' ORDER BY session, e.at DESC, id DESC)
			UNION ALL
			(SELECT DISTINCT ON (session, spec) id, kind, at, session, spec, data, now() FROM telling ORDER BY session, spec, heard DESC)
			UNION ALL
			(SELECT DISTINCT ON (session, spec) id, kind, at, session, spec, data, now() FROM telling ORDER BY session, spec, worked DESC)
			) e ORDER BY kind = 'intervention_answered' -- after what it answers`), sessions)
		if err != nil {
			return state.State{}, err
		}
		summary, now := state.NewSummary(nil), time.Now()
		var e event.Event
		var data string
		_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Kind, &e.At, &e.Session, &e.Spec, &data, &now}, func() error {
			e.Data = event.Readable(data)
			summary.Note(e)
			return nil
		})
		if err != nil {
			return state.State{}, err
		}
		// The usage of a session is the sum of all of its days.
		rows, err = conn.Query(ctx, q.store.SQL(`SELECT session::text, coalesce(spec, '')::text, max(`+store.AtSQL+`), `+usageSQL+`
			FROM @.events e WHERE session = ANY($1) AND `+tellsUsage+` GROUP BY 1, 2`), sessions)
		if err != nil {
			return state.State{}, err
		}
		used, err := collectUsed(rows)
		summary.SetTotals(state.Totals{Usage: used})
		return summary.Since(event.Earliest, now), err
	})
}
