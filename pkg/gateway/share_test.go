package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

// A thousand polls with one cursor, a hundred at a time, cost the database far
// fewer reads than polls, and each is answered rightly. The reads are counted
// by the database.
func TestPollersShareReads(t *testing.T) {
	t.Parallel()
	config := store.Config{URL: postgrestest.Database(t), MaxConns: 8}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	d := serve(t, config, gateway.Options{})

	client := &http.Client{Timeout: 4 * patience, Transport: &http.Transport{MaxConnsPerHost: 100, MaxIdleConnsPerHost: 100}}
	poll := func(since string) (status int, a answer, err error) {
		resp, err := client.Get("http://" + d.address + "/api/status?since=" + url.QueryEscape(since))
		if err != nil {
			return 0, a, err
		}
		defer resp.Body.Close()
		return resp.StatusCode, a, json.NewDecoder(resp.Body).Decode(&a)
	}
	status, first, err := poll("")
	if err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	conn, err := pgx.Connect(t.Context(), config.URL)
	if err != nil {
		t.Fatal(err)
	}
	var id int64
	if err := conn.QueryRow(t.Context(), `INSERT INTO events (kind, session) VALUES ('session_heartbeat', 's') RETURNING id`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())

	const polls = 1_000
	var polling sync.WaitGroup
	for range polls {
		polling.Go(func() {
			status, a, err := poll(first.Cursor)
			if err != nil || status != http.StatusOK || len(a.Events) != 1 || a.Events[0].ID != id || a.Cursor == first.Cursor {
				t.Errorf("%d %+v, %v", status, a, err)
			}
		})
	}
	polling.Wait()
	d.stop()

	// A session tells what it did when it ends.
	u, err := url.Parse(config.URL)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := pgx.Connect(t.Context(), os.Getenv(postgrestest.Variable))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	for end := time.Now().Add(patience); ; {
		var open, did int
		if err := admin.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = $1), xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`,
			u.Path[1:]).Scan(&open, &did); err != nil {
			t.Fatal(err)
		}
		if open == 0 && did > 0 {
			if did > polls/2 {
				t.Errorf("%d polls cost %d transactions", polls, did)
			}
			t.Logf("%d polls cost %d transactions, all of the test's others included", polls, did)
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d sessions are still open, %d transactions are counted", open, did)
		}
	}
}
