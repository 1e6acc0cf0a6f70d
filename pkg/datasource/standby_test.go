package datasource_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

// A view that continues with the data source of a standby that is behind gets an
// error with the delay, and all other events when the standby is no longer behind.
func TestPollsMoveToAStandby(t *testing.T) {
	t.Parallel()
	primary := postgrestest.Cluster(t, nil)
	if _, err := schema.Migrate(t.Context(), store.Config{URL: primary.URL()}, nil); err != nil {
		t.Fatal(err)
	}
	standby := postgrestest.Standby(t, primary)
	p, s := plug(t, primary.URL()), plug(t, standby.URL())
	here, there := p.connect(), s.connect()
	row(t, here, insert, "first")
	start := p.poll("")["cursor"].(string)
	page := func(g *grafana, since string) (int, map[string]any) {
		code, body, _ := g.call("status?limit=5&since=" + url.QueryEscape(since))
		return code, body
	}
	end := time.Now().Add(patience)
	for code := 0; code != http.StatusOK; code, _ = page(s, start) {
		if time.Now().After(end) {
			t.Fatalf("the standby does not follow: %d", code)
		}
	}
	row(t, there, "SELECT pg_wal_replay_pause()")
	for paused := false; !paused; {
		if err := there.QueryRow(t.Context(), "SELECT pg_is_wal_replay_paused()").Scan(&paused); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		row(t, here, insert, fmt.Sprint(i))
	}
	code, first := page(p, start)
	if code != http.StatusOK || specsOf(first) != "0 1 2 3 4" {
		t.Fatalf("%d: %v", code, first)
	}
	since := first["cursor"].(string)
	if code, refused := page(s, since); code != http.StatusServiceUnavailable || refused["code"] != store.Behind || !strings.Contains(refused["detail"].(string), "bytes") {
		t.Fatalf("a standby that is behind: %d %v", code, refused)
	}
	row(t, there, "SELECT pg_wal_replay_resume()")
	end = time.Now().Add(patience)
	var got []string
	for more := true; more; {
		code, body := page(s, since)
		switch {
		case code == http.StatusServiceUnavailable && time.Now().Before(end):
			continue
		case code != http.StatusOK:
			t.Fatalf("%d: %v", code, body)
		}
		got = append(got, strings.Fields(specsOf(body))...)
		since, more = body["cursor"].(string), body["more"].(bool)
	}
	if want := "5 6 7 8 9 10 11 12 13 14 15 16 17 18 19"; strings.Join(got, " ") != want {
		t.Fatalf("on the standby: %q, want %q", got, want)
	}
}
