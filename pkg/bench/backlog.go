//go:build linux

package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

const backlogEvents = 300_000

// backlog is how fast a client that was away gets what it missed.
func (w *world) backlog(ctx context.Context) ([]Line, error) {
	database, err := w.database(ctx, "backlog")
	if err != nil {
		return nil, err
	}
	defer w.drop("backlog")
	gateway, err := w.gateway(ctx, database)
	if err != nil {
		return nil, err
	}
	if err := exec1(ctx, database, `INSERT INTO events (kind, session) VALUES ('spec_started', 'bench')`); err != nil {
		return nil, err
	}
	from, err := gateway.here(ctx)
	if err != nil {
		return nil, err
	}
	w.say("backlog: writing %d events", backlogEvents)
	conn, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := writeBacklog(ctx, conn, gateway); err != nil {
		return nil, err
	}
	var bare, socket, polls []float64
	rate := func(list *[]float64, f func() error) error {
		began := time.Now()
		err := f()
		*list = append(*list, backlogEvents/time.Since(began).Seconds())
		return err
	}
	err = w.profile(gateway, "backlog", 10*time.Second, func() error {
		for round := range w.Rounds {
			if err := rate(&bare, func() error { return backlogBare(ctx, conn) }); err != nil {
				return err
			}
			if err := rate(&socket, func() error { return gateway.backlogSocket(ctx, from) }); err != nil {
				return err
			}
			if err := rate(&polls, func() error { return gateway.backlogPolls(ctx, from) }); err != nil {
				return err
			}
			w.say("backlog, round %d: bare read %.0f/s, WebSocket %.0f/s, polls %.0f/s", round+1, bare[round], socket[round], polls[round])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	line := func(name string, list []float64) Line {
		ratio := median(list) / median(bare)
		return Line{"backlog of 300,000 " + name, fmt.Sprintf("%.0f/s", median(list)), fmt.Sprintf("bare pgx read: %.0f/s", median(bare)), fmt.Sprintf("%.2f", ratio), "≥ 0.5", reaches(ratio >= 0.5)}
	}
	return []Line{line("to one WebSocket client", socket), line("by polls of 5,000", polls)}, nil
}

func writeBacklog(ctx context.Context, conn *pgx.Conn, gateway *process) error {
	for range backlogEvents / 1_000 {
		if _, err := conn.Exec(ctx, `INSERT INTO events`+pourInto, 1_000); err != nil {
			return err
		}
	}
	if _, err := gateway.here(ctx); err != nil { // the feed has seen it
		return err
	}
	_, err := conn.Exec(ctx, `VACUUM ANALYZE events`)
	return err
}

// The three ways to read it, each to its end.

func backlogBare(ctx context.Context, conn *pgx.Conn) error {
	events, err := readBare(ctx, conn, `SELECT id, kind, at, session, spec, data FROM events WHERE id > 1 ORDER BY id`)
	if err == nil && len(events) != backlogEvents {
		err = fmt.Errorf("the bare read has %d events", len(events))
	}
	return err
}

func (p *process) backlogSocket(ctx context.Context, from string) error {
	ws, err := dial(ctx, p.base+"/ws?since="+from, nil)
	if err != nil {
		return err
	}
	defer ws.close()
	waiting, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	return ws.got(waiting, backlogEvents)
}

func (p *process) backlogPolls(ctx context.Context, from string) error {
	client, cursor, n := &http.Client{}, from, 0
	for more := true; more; {
		body, _, err := p.poll(ctx, client, cursor, "")
		if err != nil {
			return err
		}
		n += bytes.Count(body, idMark)
		cursor, more = cursorOf(body), bytes.Contains(body, []byte(`"more":true`))
	}
	if n != backlogEvents {
		return fmt.Errorf("polls bring %d events", n)
	}
	return nil
}
