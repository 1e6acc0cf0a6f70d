//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// With pool_max_conns=2 in the URL a gateway has at most 5 connections: 2 that
// read, 2 that write, and the one of its feed, which waits for notifications.
// PostgreSQL sets this user no limit, and the requests wait for each other.
func TestServeWithPoolOfTheURL(t *testing.T) {
	const reading, writing, feed = 2, 2, 1
	a := migrated(t)
	u, err := neturl.Parse(a.url)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("pool_max_conns", "2")
	q.Set("application_name", "small_pool")
	u.RawQuery = q.Encode()
	p := place(t, u.String()).start(t, nil, "serve", "--listen", "127.0.0.1:0")
	page := p.page(t)
	programtest.Until(t, "it is served", func() bool { _, ok := poll(t, page); return ok })

	conn, locker := postgrestest.Connect(t, a.url), postgrestest.Connect(t, a.url)
	count := func(where string) (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'small_pool' AND datname = current_database() AND `+where).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	// While the table is locked, what writes keeps its connection.
	lock, err := locker.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback(context.Background())
	if _, err := lock.Exec(t.Context(), "LOCK TABLE events"); err != nil {
		t.Fatal(err)
	}
	results := make(chan string, 32)
	for i := range cap(results) {
		go func() {
			answer, err := http.Get(fmt.Sprintf("%s/api/status?last=%d", page, 1+i)) // no two the same
			want := http.StatusOK
			if i%2 == 1 {
				answer, err = http.Post(page+"/api/events", "application/json", strings.NewReader(`{"kind":"spec_started","session":"s"}`))
				want = http.StatusCreated
			}
			if err != nil {
				results <- err.Error()
				return
			}
			defer answer.Body.Close()
			if text, _ := io.ReadAll(answer.Body); answer.StatusCode != want {
				results <- fmt.Sprint(answer.StatusCode, " ", string(text))
				return
			}
			results <- ""
		}()
	}
	programtest.Until(t, "the writers wait for the table", func() bool { return count("wait_event_type = 'Lock'") >= writing })
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range cap(results) {
		if failed := <-results; failed != "" {
			t.Error(failed)
		}
	}
	// A pool keeps the connections that it has made, for the next requests.
	if n := count("true"); n > reading+writing+feed {
		t.Errorf("%d connections, want at most %d", n, reading+writing+feed)
	}
	p.interrupt(t, syscall.SIGTERM)
}
