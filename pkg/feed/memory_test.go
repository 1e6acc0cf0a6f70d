package feed_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/store"
)

// remembered asks until the feed answers from memory.
func remembered(t *testing.T, f *feed.Feed, c cursor.Cursor, limit int) store.Page {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for ctx.Err() == nil {
		if page, ok := f.Since(ctx, c, limit); ok {
			return page
		}
	}
	t.Fatal("the feed does not remember")
	return store.Page{}
}

// What was committed before the call is in the answer, and nothing twice.
func TestMemoryHoldsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	conn := postgrestest.Connect(t, address)
	c := here(t, s)
	if page := remembered(t, f, c, 10); len(page.Events) != 0 || !page.Cursor.Equal(c) || page.More {
		t.Fatalf("%+v", page)
	}
	late := postgrestest.Connect(t, address)
	exec(t, late, "BEGIN")
	exec(t, late, insert, "late")
	origin := c
	for i := range 20 {
		exec(t, conn, insert, fmt.Sprint(i))
		page := remembered(t, f, c, 10)
		if len(page.Events) != 1 || page.Events[0].Spec != fmt.Sprint(i) {
			t.Fatalf("%d: %+v", i, page.Events)
		}
		c = page.Cursor
	}
	exec(t, late, "COMMIT")
	if page := remembered(t, f, c, 10); len(page.Events) != 1 || page.Events[0].Spec != "late" {
		t.Fatalf("%+v", page.Events)
	}
	want, err := s.Since(t.Context(), origin, 100)
	if err != nil {
		t.Fatal(err)
	}
	got := remembered(t, f, origin, 100)
	// Beside these events a cursor lists what other tests have open, which changes.
	if len(got.Events) != 21 || len(want.Events) != 21 || got.Cursor.Last != want.Cursor.Last {
		t.Fatalf("%d of memory, %d of the database, at %+v and %+v", len(got.Events), len(want.Events), got.Cursor, want.Cursor)
	}
	for i := range got.Events {
		if got.Events[i].ID != want.Events[i].ID {
			t.Errorf("row %d is %d, not %d", i, got.Events[i].ID, want.Events[i].ID)
		}
		if !got.Cursor.From.Visible(want.Xids[i]) || !want.Cursor.From.Visible(got.Xids[i]) {
			t.Errorf("row %d is in one of the cursors %+v and %+v", i, got.Cursor, want.Cursor)
		}
	}
	// More than was asked for is turned page by page, by the database.
	if page, ok := f.Since(t.Context(), origin, 20); ok {
		t.Errorf("%d of 21 events from memory", len(page.Events))
	}
}

// Readers that go back and forth between memory and database, while writers
// overlap, get every row once.
func TestMemoryAndDatabaseInTurn(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	const writers, each, readers = 6, 150, 8
	origin := here(t, s)
	var writing, reading sync.WaitGroup
	for w := range writers {
		conn := postgrestest.Connect(t, address)
		writing.Go(func() {
			for i := range each {
				sql := insert
				switch i % 10 {
				case 3:
					sql = `WITH w AS MATERIALIZED (SELECT pg_sleep(0.01)) INSERT INTO events (kind, session, spec) SELECT 'spec_started', 's', $1 FROM w`
				case 7:
					if _, err := conn.Exec(context.Background(), `BEGIN; INSERT INTO events (kind, session) VALUES ('spec_started', 'rolled back'); ROLLBACK`); err != nil {
						t.Error(err)
					}
				}
				if _, err := conn.Exec(context.Background(), sql, fmt.Sprintf("%d/%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var memory, database int
	var mu sync.Mutex
	for n := range readers {
		reading.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 4*patience) // for all rows
			defer cancel()
			c, seen, rng := origin, map[int64]bool{}, rand.New(rand.NewPCG(uint64(n), 1))
			for len(seen) < writers*each && ctx.Err() == nil {
				page, ok := store.Page{}, false
				if rng.IntN(3) > 0 {
					page, ok = f.Since(ctx, c, 200)
				}
				mu.Lock()
				if ok {
					memory++
				} else {
					database++
				}
				mu.Unlock()
				if !ok {
					var err error
					if page, err = s.Since(ctx, c, 200); err != nil {
						t.Error(err)
						return
					}
				}
				for _, e := range page.Events {
					if seen[e.ID] {
						t.Errorf("reader %d: event %d twice", n, e.ID)
					}
					seen[e.ID] = true
				}
				c = page.Cursor
			}
			if len(seen) != writers*each {
				t.Errorf("reader %d has %d of %d events", n, len(seen), writers*each)
			}
		})
	}
	writing.Wait()
	reading.Wait()
	if memory == 0 || database == 0 {
		t.Errorf("%d answers from memory and %d from the database", memory, database)
	}
}

// A cursor whose last row the feed does not know is for the database to judge.
func TestMemoryKnowsTheHistory(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	conn := postgrestest.Connect(t, address)
	exec(t, conn, insert, "one")
	c := here(t, s)
	remembered(t, f, c, 10)
	other := c
	other.Last.ID++
	if _, ok := f.Since(t.Context(), other, 10); ok {
		t.Error("a cursor of another history is answered from memory")
	}
	other = c
	other.Epoch++
	if _, ok := f.Since(t.Context(), other, 10); ok {
		t.Error("a cursor of another database is answered from memory")
	}
	// While the database is away, memory is no answer.
	exec(t, conn, `ALTER TABLE specwatch_meta RENAME TO away`)
	for deadline := time.Now().Add(patience); f.Stats().Connected; f.Look() {
		if time.Now().After(deadline) {
			t.Fatal("the feed does not notice")
		}
	}
	if _, ok := f.Since(t.Context(), c, 10); ok {
		t.Error("memory answers while the database cannot be read")
	}
}
