package feed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

const patience = 30 * time.Second

func start(t testing.TB) (*feed.Feed, *store.Store, string) {
	t.Helper()
	address, name := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: name, MaxConns: 16}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	f, s := over(t, config)
	return f, s, address
}

// over is a feed of a migrated schema.
func over(t testing.TB, config store.Config) (*feed.Feed, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	f := feed.New(s)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f, s
}

func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

const insert = `INSERT INTO events (kind, session, spec) VALUES ('spec_started', 's', $1)`

func subscribe(t testing.TB, f *feed.Feed, since cursor.Cursor, limit int) *feed.Subscription {
	t.Helper()
	sub, err := f.Subscribe(t.Context(), since, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	return sub
}

func next(t testing.TB, sub *feed.Subscription) *feed.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := sub.Next(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func here(t testing.TB, s *store.Store) cursor.Cursor {
	t.Helper()
	page, err := s.SinceTime(t.Context(), time.Now().Add(time.Hour), 1)
	if err != nil {
		t.Fatal(err)
	}
	return page.Cursor
}

func specs(b *feed.Batch) string {
	var names []string
	for _, e := range b.Events {
		names = append(names, e.Spec)
	}
	return strings.Join(names, " ")
}

func TestLateCommit(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	sub := subscribe(t, f, here(t, s), 100)
	late, early := postgrestest.Connect(t, address), postgrestest.Connect(t, address)
	exec(t, late, "BEGIN")
	exec(t, late, insert, "late")
	exec(t, early, insert, "early")
	if got := specs(next(t, sub)); got != "early" {
		t.Fatalf("first %q", got)
	}
	exec(t, late, "COMMIT")
	if got := specs(next(t, sub)); got != "late" {
		t.Fatalf("then %q", got)
	}
}

// Subscribers that come at any time and from any cursor, while writers
// overlap, get every row once, in batches that follow on one another.
func TestEveryRowOnceForEverySubscriber(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	const writers, each, subscribers = 8, 300, 12
	origin := here(t, s)
	total := make(chan int, 1)
	var writing, reading sync.WaitGroup
	for w := range writers {
		conn := postgrestest.Connect(t, address)
		writing.Go(func() {
			for i := range each {
				sql := insert
				if i%20 == 19 {
					sql = `WITH w AS MATERIALIZED (SELECT pg_sleep(0.005)) INSERT INTO events (kind, session, spec) SELECT 'spec_started', 's', $1 FROM w`
				}
				if _, err := conn.Exec(context.Background(), sql, fmt.Sprintf("%d/%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { writing.Wait(); total <- writers * each }()
	for n := range subscribers {
		reading.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 4*patience) // for all rounds
			defer cancel()
			since, seen := origin, map[int64]bool{}
			take := func(events []event.Event) {
				for _, e := range events {
					if seen[e.ID] {
						t.Errorf("subscriber %d: event %d twice", n, e.ID)
					}
					seen[e.ID] = true
				}
			}
			// Each leaves and comes back a few times; in between it may
			// have polled, and so know more than the feed.
			for round := 0; len(seen) < writers*each; round++ {
				if round%3 == 1 {
					page, err := s.Since(ctx, since, 50)
					if err != nil {
						t.Error(err)
						return
					}
					take(page.Events)
					since = page.Cursor
				}
				sub, err := f.Subscribe(ctx, since, 40)
				if err != nil {
					t.Error(err)
					return
				}
				for turn := 0; (turn < 10+n*3 || round > 8) && len(seen) < writers*each; turn++ {
					b, err := sub.Next(ctx, nil)
					if err != nil {
						t.Errorf("subscriber %d has %d of %d events: %v", n, len(seen), writers*each, err)
						sub.Close()
						return
					}
					if !b.From.Equal(since) {
						t.Errorf("subscriber %d: a batch from %+v after %+v", n, b.From, since)
					}
					since = b.Cursor
					take(b.Events)
				}
				sub.Close()
				if since, err = cursor.Parse(since.String()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	reading.Wait()
	if n := <-total; n != writers*each {
		t.Error(n)
	}
	if n := f.Stats().Subscribers; n != 0 {
		t.Errorf("%d subscribers are left", n)
	}
}

func TestReconnects(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	sub := subscribe(t, f, here(t, s), 100)
	conn := postgrestest.Connect(t, address)
	for i := range 5 {
		exec(t, conn, insert, fmt.Sprint(i))
		if got := specs(next(t, sub)); got != fmt.Sprint(i) {
			t.Fatalf("%d: %q", i, got)
		}
		// The feed's own connection is the one that holds the advisory lock of this
		// schema, as soon as it has settled.
		ended := false
		for deadline := time.Now().Add(patience); !ended; {
			if time.Now().After(deadline) {
				t.Fatal("the feed does not hold the advisory lock")
			}
			if err := conn.QueryRow(t.Context(), `SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_locks l, specwatch_meta m
				WHERE locktype = 'advisory' AND granted AND ((classid::bigint << 32) | objid::bigint) = m.bell`).Scan(&ended); err != nil {
				t.Fatal(err)
			}
		}
	}
	exec(t, conn, insert, "last")
	if got := specs(next(t, sub)); got != "last" {
		t.Fatalf("%q", got)
	}
}

// The server ends the session of a feed that it has not heard of for long
// (idle_session_timeout, 57P05): the feed goes on by itself. A relay shortens the
// time that the feed sets.
func TestGoesOnAfterItsSessionWasIdle(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	conn := postgrestest.Connect(t, server.URL())
	var version int
	if err := conn.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < 14_00_00 {
		t.Skip("PostgreSQL 13 has no idle_session_timeout")
	}
	if _, err := schema.Migrate(t.Context(), store.Config{URL: server.URL()}, nil); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ended atomic.Int64
	relay := func(to, from net.Conn, change func([]byte) []byte) {
		defer to.Close()
		defer from.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				if _, err := to.Write(change(buffer[:n])); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go func() { // ends when the listener is closed
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			network, address := pgconn.NetworkAddress(conn.Config().Host, conn.Config().Port)
			upstream, err := net.Dial(network, address)
			if err != nil {
				client.Close()
				continue
			}
			go relay(upstream, client, func(b []byte) []byte {
				return bytes.Replace(b, []byte("idle_session_timeout = '30000ms'"), []byte("idle_session_timeout = '01000ms'"), 1)
			})
			go relay(client, upstream, func(b []byte) []byte {
				if bytes.Contains(b, []byte("57P05")) {
					ended.Add(1)
				}
				return b
			})
		}
	}()
	t.Cleanup(func() { listener.Close() })
	through, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	through.Host = listener.Addr().String()
	query := through.Query()
	query.Del("host")
	query.Set("sslmode", "disable")
	through.RawQuery = query.Encode()
	f, s := over(t, store.Config{URL: through.String()})
	sub := subscribe(t, f, here(t, s), 100)
	for i := range 3 {
		was := ended.Load()
		for deadline := time.After(patience); ended.Load() == was; {
			select {
			case <-f.Changed():
			case <-deadline:
				t.Fatal("the server does not end the session")
			}
		}
		exec(t, conn, insert, fmt.Sprint(i))
		if got := specs(next(t, sub)); got != fmt.Sprint(i) {
			t.Fatalf("%d: %q", i, got)
		}
	}
}

func TestSlowSubscriberIsLetGoWithItsCursor(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	conn := postgrestest.Connect(t, address)
	slow := subscribe(t, f, here(t, s), 100)
	exec(t, conn, insert, "seen")
	if got := specs(next(t, slow)); got != "seen" {
		t.Fatal(got)
	}
	fast := subscribe(t, f, here(t, s), 100)
	const rows = 50_000
	exec(t, conn, `INSERT INTO events (kind, session, spec) SELECT 'spec_started', 's', n::text FROM generate_series(1, $1) n`, rows)
	for n := 0; n < rows; {
		b, err := fast.Next(t.Context(), nil)
		if errors.Is(err, feed.ErrSlow) {
			fast = subscribe(t, f, fast.Cursor(), 5_000)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(b.Events)
	}
	// All that is let go at once resumes by cursor and has missed nothing.
	if _, err := slow.Next(t.Context(), nil); !errors.Is(err, feed.ErrSlow) {
		t.Fatalf("a subscriber 50,000 events behind: %v", err)
	}
	again := subscribe(t, f, slow.Cursor(), 5_000)
	seen := 0
	for seen < rows {
		for _, e := range next(t, again).Events {
			if seen++; e.Spec != fmt.Sprint(seen) {
				t.Fatalf("event %d is %q", seen, e.Spec)
			}
		}
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	other, _, _ := start(t)
	sub := subscribe(t, f, here(t, s), 10)
	if _, err := other.Subscribe(t.Context(), here(t, s), 10); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("another database's cursor: %v", err)
	}
	conn := postgrestest.Connect(t, address)
	exec(t, conn, `UPDATE specwatch_meta SET epoch = gen_random_uuid()`)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := sub.Next(ctx, nil); !errors.Is(err, store.ErrExpired) {
		t.Fatalf("after the epoch changed: %v", err)
	}
	sub = subscribe(t, f, here(t, s), 10)
	exec(t, conn, insert, "afresh")
	if got := specs(next(t, sub)); got != "afresh" {
		t.Fatal(got)
	}
}

// An older state of the same table was put back, with the same epoch: a
// subscriber that has events of the later state learns it, whether it stays
// subscribed or comes back; one that has not got that far goes on.
func TestAnOlderStateOfTheSameTable(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	conn := postgrestest.Connect(t, address)
	exec(t, conn, insert, "kept")
	early := subscribe(t, f, here(t, s), 100)
	sub := subscribe(t, f, here(t, s), 100)
	exec(t, conn, `CREATE TABLE saved AS TABLE events`)
	exec(t, conn, insert, "undone")
	if got := specs(next(t, sub)); got != "undone" {
		t.Fatalf("%q", got)
	}
	exec(t, conn, `BEGIN`)
	exec(t, conn, `DELETE FROM events`)
	exec(t, conn, `INSERT INTO events OVERRIDING SYSTEM VALUE SELECT * FROM saved`)
	exec(t, conn, `COMMIT`)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if b, err := sub.Next(ctx, nil); !errors.Is(err, store.ErrExpired) {
		t.Errorf("a subscriber that has seen more: %+v, %v", b, err)
	}
	back, err := f.Subscribe(ctx, sub.Cursor(), 100)
	if err == nil {
		_, err = back.Next(ctx, nil)
	}
	if !errors.Is(err, store.ErrExpired) {
		t.Errorf("when it comes back: %v", err)
	}
	exec(t, conn, insert, "new")
	if got := specs(next(t, early)); got != "new" {
		t.Errorf("a subscriber that has not seen more: %q", got)
	}
}

// A session that holds the advisory lock exclusively, as any reader may, does not
// stop the delivery or make the feed connect again.
func TestALockThatIsHeldStopsNoFeed(t *testing.T) {
	t.Parallel()
	address, name := postgrestest.Schema(t)
	config := store.Config{URL: address, Schema: name, MaxConns: 4}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	hog := postgrestest.Connect(t, address)
	exec(t, hog, `SELECT pg_advisory_lock(bell) FROM specwatch_meta`)
	f, s := over(t, config)
	sub := subscribe(t, f, here(t, s), 100)
	conn := postgrestest.Connect(t, address)
	for i := range 5 {
		exec(t, conn, insert, fmt.Sprint(i))
		if got := specs(next(t, sub)); got != fmt.Sprint(i) {
			t.Fatalf("%d: %q", i, got)
		}
	}
	if stats := f.Stats(); stats.Reconnects != 0 {
		t.Errorf("%+v", stats)
	}
}

// While transactions are rare, inserts notify; while they are dense they do
// not, and they do again afterwards.
func TestPace(t *testing.T) {
	t.Parallel()
	f, s, address := start(t)
	sub := subscribe(t, f, here(t, s), 100)
	conn := postgrestest.Connect(t, address)
	exec(t, conn, insert, "one")
	next(t, sub)
	// The reader holds the shared advisory lock while inserts notify.
	notifying := func() (held bool) {
		err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_locks l, specwatch_meta m
			WHERE locktype = 'advisory' AND mode = 'ShareLock' AND ((classid::bigint << 32) | objid::bigint) = m.bell)`).Scan(&held)
		if err != nil {
			t.Fatal(err)
		}
		return held
	}
	until := func(want bool, what string) {
		t.Helper()
		for deadline := time.Now().Add(patience); notifying() != want; {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	until(true, "inserts do not notify while transactions are rare")
	flood, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for range 4 {
		writer := postgrestest.Connect(t, address)
		if _, err := writer.Exec(t.Context(), "SET synchronous_commit = off"); err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			for flood.Err() == nil {
				batch := &pgx.Batch{}
				for range 200 {
					batch.Queue("BEGIN")
					batch.Queue(insert, "dense")
					batch.Queue("COMMIT")
				}
				if err := writer.SendBatch(context.Background(), batch).Close(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	until(false, "inserts go on notifying while transactions are dense")
	stop()
	writers.Wait()
	until(true, "inserts do not notify again")
}
