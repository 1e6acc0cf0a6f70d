//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"github.com/jackc/pgx/v5"
)

// The table of the bare program: as Specwatch's, with the trigger that
// everybody would write first.
const floorTable = `
	CREATE TABLE bare_events (LIKE events INCLUDING ALL);
	CREATE FUNCTION bare_notify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('bare', ''); RETURN NULL; END $$;
	CREATE TRIGGER bare_notify AFTER INSERT ON bare_events FOR EACH STATEMENT EXECUTE FUNCTION bare_notify();`

type bareEvent struct {
	ID      int64           `json:"id"`
	Kind    string          `json:"kind"`
	At      time.Time       `json:"at"`
	Session string          `json:"session"`
	Spec    string          `json:"spec"`
	Data    json.RawMessage `json:"data"`
}

const bareSQL = `SELECT id, kind, at, session, spec, data FROM bare_events WHERE id > $1 ORDER BY id`

func readBare(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]bareEvent, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e bareEvent, err error) {
		err = row.Scan(&e.ID, &e.Kind, &e.At, &e.Session, &e.Spec, &e.Data)
		return e, err
	})
}

// Floor is the least that could work: it listens, reads what is above the last
// id, and writes that to one socket. It has none of Specwatch's guarantees.
// It prints its address and serves until ctx ends.
func Floor(ctx context.Context, database string, print func(string)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{}
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return // the upgrader has answered
		}
		defer ws.Close()
		if err := follow(ctx, database, ws); err != nil && ctx.Err() == nil {
			select {
			case failed <- err:
			default:
			}
		}
	})}
	defer server.Close()
	go func() { failed <- server.Serve(l) }()
	print("http://" + l.Addr().String())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func follow(ctx context.Context, database string, ws *websocket.Conn) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN bare`); err != nil {
		return err
	}
	var last int64
	if err := conn.QueryRow(ctx, `SELECT coalesce(max(id), 0) FROM bare_events`).Scan(&last); err != nil {
		return err
	}
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"connection_established"}`)); err != nil {
		return err
	}
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
		events, err := readBare(ctx, conn, bareSQL, last)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			continue
		}
		last = events[len(events)-1].ID
		text, err := json.Marshal(map[string]any{"type": "event_update", "data": map[string]any{"events": events}})
		if err != nil {
			return err
		}
		if err := ws.WriteMessage(websocket.TextMessage, text); err != nil {
			return nil // the client has gone
		}
	}
}
