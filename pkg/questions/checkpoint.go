package questions

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	// keepEvery is the least time between two stored summaries, of all
	// processes together.
	keepEvery = 30 * time.Second
	// keptLag is how many events a stored summary may lack before a full load
	// replaces it. Reading that many takes about a second.
	keptLag = 50_000
)

// Keep stores a summary of what the cursor has seen, as MarshalBinary encodes
// it, so that the next Load begins there. It does nothing if one of the same
// format was stored within the last 30 seconds. pruned is Page.Pruned of the
// Load that the summary began with. The error may be store.ErrNotAllowed.
func (q Questions) Keep(ctx context.Context, summary []byte, c cursor.Cursor, pruned int64) error {
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if _, err := w.Write(summary); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err = store.Writing(ctx, q.store, func(conn *pgx.Conn) (struct{}, error) {
		_, err := conn.Exec(ctx, q.store.SQL(`
			INSERT INTO @.specwatch_overview AS o (format, cursor, pruned, summary) VALUES ($1, $2, $3, $4)
			ON CONFLICT (one) DO UPDATE SET format = excluded.format, cursor = excluded.cursor, pruned = excluded.pruned, summary = excluded.summary, kept = excluded.kept
			WHERE o.kept < excluded.kept - $5::interval OR o.format <> excluded.format`), state.Format, c.String(), pruned, packed.Bytes(), keepEvery)
		return struct{}{}, err
	})
	return store.NotAllowed(err)
}

// kept returns the stored summary; nil if its cursor has expired, if prune has
// removed events since, or if it lacks more than keptLag events.
func kept(ctx context.Context, s *store.Store, conn *pgx.Conn) (*state.Summary, store.Page, error) {
	var token string
	var packed []byte
	page := store.Page{}
	err := conn.QueryRow(ctx, s.SQL(`
		SELECT o.cursor, o.pruned, o.summary FROM @.specwatch_overview o, @.specwatch_meta m WHERE o.format = $1 AND o.pruned = m.pruned`), state.Format).
		Scan(&token, &page.Pruned, &packed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, page, nil
	}
	if err != nil {
		return nil, page, err
	}
	if page.Cursor, err = cursor.Parse(token); err != nil {
		return nil, page, nil
	}
	now, err := s.SinceOn(ctx, conn, page.Cursor, 1)
	if errors.Is(err, store.ErrExpired) {
		return nil, page, nil
	}
	if err != nil {
		return nil, page, err
	}
	page.At = now.At
	var far bool
	err = conn.QueryRow(ctx, s.SQL(`SELECT EXISTS (SELECT FROM @.events WHERE xid IS NOT NULL AND xid >= pg_snapshot_xmax($1::text::pg_snapshot) ORDER BY xid OFFSET $2)`), page.Cursor.From.String(), keptLag).Scan(&far)
	if err != nil || far {
		return nil, page, err
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxKept))
	if err != nil {
		return nil, page, err
	}
	defer r.Close()
	text, err := r.DecodeAll(packed, nil)
	if err != nil {
		return nil, page, nil
	}
	summary := state.NewSummary(nil)
	if summary.UnmarshalBinary(text) != nil {
		return nil, page, nil
	}
	return summary, page, nil
}

// maxKept bounds the memory, in bytes, that decompressing a stored summary
// takes.
const maxKept = 1 << 30
