package store_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// Through pgbouncer everything works, in both modes and with a schema: the
// pooler is noticed, nothing relies on a session, and the reader looks for
// events, since no notification would come.
func TestThroughPgbouncer(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	for _, mode := range []string{"transaction", "session"} {
		for _, parameter := range []string{"", "&default_query_exec_mode=exec", "&default_query_exec_mode=simple_protocol"} {
			t.Run(mode+parameter, func(t *testing.T) {
				t.Parallel()
				address := postgrestest.Pgbouncer(t, server.URL(), mode, 12) + parameter
				config := store.Config{URL: address, Schema: strings.Trim(fmt.Sprintf("Own %s %d", mode, len(parameter)), " "), MaxConns: 4}
				for range 3 {
					if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
						t.Fatal(err)
					}
				}
				s := storetest.Open(t, config)
				if err := s.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !s.Pooled() {
					t.Fatal("the pooler was not noticed")
				}
				r, err := s.NewReader(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if r.Hearing() != store.ByLooking {
					t.Errorf("hearing %d", r.Hearing())
				}
				var wg sync.WaitGroup
				for w := range 4 {
					wg.Go(func() {
						for i := range 25 {
							e := event.Event{Kind: event.SpecStarted, Session: "s", Spec: fmt.Sprintf("%d/%d", w, i), Key: fmt.Sprintf("%d/%d", w, i/2)}
							if _, err := s.Append(context.Background(), []event.Event{e}); err != nil {
								t.Error(err)
							}
						}
					})
					wg.Go(func() {
						for range 25 {
							if _, err := s.Since(context.Background(), cursor.Cursor{}, 10); err != nil {
								t.Error(err)
							}
							if _, err := questions.To(s).Range(context.Background(), questions.Filter{From: time.Now().Add(-time.Hour), To: time.Now(), Limit: 5}); err != nil {
								t.Error(err)
							}
						}
					})
				}
				wg.Wait()
				got := 0
				for c := (cursor.Cursor{}); ; {
					page, err := r.Since(t.Context(), c, 7)
					if err != nil {
						t.Fatal(err)
					}
					got += len(page.Events)
					if c = page.Cursor; !page.More {
						break
					}
				}
				if got != 4*13 {
					t.Errorf("%d events", got)
				}
				if _, err := storetest.State(t, s); err != nil {
					t.Error(err)
				}
				if n, err := maintenance.Prune(t.Context(), s, time.Now().Add(time.Minute), nil); err != nil || n != 4*13 {
					t.Errorf("%d pruned: %v", n, err)
				}
			})
		}
	}
}

// countingCancels passes connections on and counts the cancel requests among
// them.
func countingCancels(t testing.TB, address string) (through string, cancels *atomic.Int64) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	to := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	cancels = &atomic.Int64{}
	pass := func(from net.Conn) {
		defer from.Close()
		const cancelRequest = 80877102 // after the length; see "Message Formats" of PostgreSQL
		head := make([]byte, 8)
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		if binary.BigEndian.Uint32(head[4:]) == cancelRequest {
			cancels.Add(1)
		}
		// PgBouncer wants the first packet whole.
		head = append(head, make([]byte, max(0, min(10_000, int(binary.BigEndian.Uint32(head))-8)))...)
		if _, err := io.ReadFull(from, head[8:]); err != nil {
			return
		}
		there, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer there.Close()
		if _, err := there.Write(head); err != nil {
			return
		}
		go func() {
			io.Copy(from, there)
			from.Close()
		}()
		io.Copy(there, from)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go pass(conn)
		}
	}()
	u.Host = l.Addr().String()
	return u.String(), cancels
}

// A statement whose caller gives up is cancelled, but not through a pooler:
// PgBouncer 1.18 may end at a cancel request.
func TestNoCancelRequestThroughAPooler(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	if _, err := schema.Migrate(t.Context(), store.Config{URL: server.URL()}, nil); err != nil {
		t.Fatal(err)
	}
	// giveUp gives up three reads and, if cancelled says so, as many as it takes
	// until a cancel request was made: a busy machine may not get to send a read in
	// time, and the request is made after the caller has its error.
	giveUp := func(address string, cancelled bool) *atomic.Int64 {
		through, cancels := countingCancels(t, address)
		s := storetest.Open(t, store.Config{URL: through})
		if err := s.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		lock := postgrestest.Connect(t, server.URL())
		storetest.Exec(t, lock, "BEGIN")
		storetest.Exec(t, lock, "LOCK TABLE events")
		end := time.Now().Add(time.Minute)
		for tries := 0; tries < 3 || cancelled && cancels.Load() == 0 && time.Now().Before(end); tries++ {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := s.Since(ctx, cursor.Cursor{}, 1); err == nil {
				t.Error("read a table that is locked")
			}
			cancel()
		}
		storetest.Exec(t, lock, "ROLLBACK")
		if _, err := s.Since(t.Context(), cursor.Cursor{}, 1); err != nil {
			t.Error(err)
		}
		return cancels
	}
	if n := giveUp(server.URL(), true).Load(); n == 0 {
		t.Error("without a pooler no statement was cancelled")
	}
	if n := giveUp(postgrestest.Pgbouncer(t, server.URL(), "transaction", 12), false).Load(); n != 0 {
		t.Errorf("%d cancel requests through the pooler", n)
	}
}
