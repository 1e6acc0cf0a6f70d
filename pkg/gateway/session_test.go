package gateway_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/programtest"
)

func (d *server) signIn(header ...string) (cookie, attributes string) {
	d.t.Helper()
	status, a, h := d.do("POST", "/api/login", `{"token":"read-secret"}`, header...)
	if status != http.StatusNoContent {
		d.t.Fatalf("%d %+v", status, a)
	}
	cookie, attributes, _ = strings.Cut(h.Get("Set-Cookie"), ";")
	return cookie, attributes
}

// Signing out ends the session for everybody who has its cookie, and what is
// open by it; other sessions go on.
func TestSignOut(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret"})
	cookie, _ := d.signIn()
	other, _ := d.signIn()
	if cookie == other {
		t.Fatal("two sessions have one cookie")
	}
	conn, _, err := d.dial("", "Cookie", cookie)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	receive(t, conn)
	if status, _, _ := d.do("POST", "/api/logout", "", "Cookie", cookie); status != http.StatusNoContent {
		t.Fatal(status)
	}
	for _, path := range []string{"/api/status", "/metrics"} {
		if status, _, _ := d.do("GET", path, "", "Cookie", cookie); status != http.StatusUnauthorized {
			t.Errorf("%s with a copy of the cookie: %d", path, status)
		}
	}
	if _, resp, err := d.dial("", "Cookie", cookie); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a socket with a copy of the cookie: %v", err)
	}
	if code := endCode(conn); code != websocket.ClosePolicyViolation {
		t.Errorf("the open socket ends with %d", code)
	}
	if status, _, _ := d.do("GET", "/api/status", "", "Cookie", other); status != http.StatusOK {
		t.Errorf("the other session: %d", status)
	}
	// What is not a session, or was changed, is none.
	for _, wrong := range []string{other + "x", strings.Replace(other, "=1", "=2", 1), "specwatch_session=", "specwatch_session=..", "specwatch_session=9999999999999.x."} {
		if status, _, _ := d.do("GET", "/api/status", "", "Cookie", wrong); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", wrong, status)
		}
	}
}

// The cookie goes over TLS alone wherever the browser came over TLS.
func TestSecureCookie(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret", BasePath: "/watch/"})
	for _, c := range []struct {
		secure bool
		header []string
	}{
		{false, nil},
		{false, []string{"X-Forwarded-Proto", "http"}},
		{false, []string{"Origin", "http://" + d.address}},
		{true, []string{"X-Forwarded-Proto", "https"}},
		{true, []string{"X-Forwarded-Proto", "HTTPS"}},
		{true, []string{"X-Forwarded-Proto", "https, http"}}, // the browser's proxy comes first
		{false, []string{"X-Forwarded-Proto", "http, https"}},
		{true, []string{"Origin", "https://" + d.address}},
	} {
		if _, attributes := d.signIn(c.header...); strings.Contains(attributes, "Secure") != c.secure || !strings.Contains(attributes, "HttpOnly") ||
			!strings.Contains(attributes, "SameSite=Strict") || !strings.Contains(attributes, "Path=/watch/") {
			t.Errorf("%q: %s", c.header, attributes)
		}
	}
}

// Wrong tokens are answered slower and slower, also when many come at once;
// reading with the right one goes on.
func TestGuesses(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret"})
	cookie, _ := d.signIn()
	var wrong, later atomic.Int64
	var guessing sync.WaitGroup
	for i := range 200 {
		guessing.Go(func() {
			status, a, h := d.do("POST", "/api/login", fmt.Sprintf(`{"token":"guess %d"}`, i))
			switch status {
			case http.StatusUnauthorized:
				wrong.Add(1)
			case http.StatusTooManyRequests:
				later.Add(1)
				if n, err := strconv.Atoi(h.Get("Retry-After")); err != nil || n < 1 || a.Detail == "" {
					t.Errorf("Retry-After %q, %+v", h.Get("Retry-After"), a)
				}
			default:
				t.Errorf("%d", status)
			}
		})
	}
	guessing.Wait()
	if wrong.Load() > 10 || wrong.Load()+later.Load() != 200 {
		t.Errorf("%d of 200 guesses were answered, %d put off", wrong.Load(), later.Load())
	}
	// One more guess is allowed every few seconds, and may become allowed just
	// before the right one. Then others use up what is allowed, and it comes again.
	for deadline := time.Now().Add(patience); ; {
		for status := 0; status != http.StatusTooManyRequests; {
			if status, _, _ = d.do("POST", "/api/login", `{"token":"another guess"}`); status != http.StatusUnauthorized && status != http.StatusTooManyRequests {
				t.Fatalf("another guess: %d", status)
			}
		}
		status, _, _ := d.do("POST", "/api/login", `{"token":"read-secret"}`)
		if status == http.StatusTooManyRequests {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a right guess among too many: %d", status)
		}
	}
	for _, header := range [][]string{{"Cookie", cookie}, {"Authorization", "Bearer read-secret"}} {
		if status, _, _ := d.do("GET", "/api/status", "", header...); status != http.StatusOK {
			t.Errorf("reading meanwhile: %d", status)
		}
	}
}

// Right tokens are not counted.
func TestSigningInOften(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{ReadToken: "read-secret", WriteToken: "write-secret"})
	for range 100 {
		d.signIn()
	}
}

// However many ask whether the gateway is ready, the database is asked about
// once a second, and by one at a time.
func TestReadyAsksRarely(t *testing.T) {
	t.Parallel()
	var log programtest.Output
	d := start(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	programtest.Until(t, "it is ready", func() bool { status, _, _ := d.do("GET", "/readyz", ""); return status == http.StatusOK })
	// The table is locked, so that asking takes until it is not.
	db, watcher := d.connect(), d.connect()
	var schema string
	if err := db.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "BEGIN")
	exec(t, db, "LOCK TABLE specwatch_migrations IN ACCESS EXCLUSIVE MODE")
	var asking sync.WaitGroup
	var refused atomic.Int64
	done := make(chan struct{})
	for range 100 {
		asking.Go(func() {
			for {
				if status, _, _ := d.do("GET", "/readyz", ""); status != http.StatusOK {
					refused.Add(1)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	programtest.Until(t, "one asks", func() bool {
		var n int
		if err := watcher.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE relation = to_regclass($1) AND NOT granted`, schema+".specwatch_migrations").Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n > 1 {
			t.Fatalf("%d ask the database at once", n)
		}
		return n == 1
	})
	// /healthz does not depend on the database.
	if status, _, _ := d.do("GET", "/healthz", ""); status != http.StatusOK {
		t.Errorf("healthz: %d", status)
	}
	close(done)
	exec(t, db, "COMMIT")
	asking.Wait()
	if refused.Load() > 0 {
		t.Errorf("%d were told that it is not ready; the log says %s", refused.Load(), &log)
	}
	// A fault shows in the answer within moments, and so does its repair.
	exec(t, db, "ALTER TABLE specwatch_migrations RENAME TO elsewhere")
	programtest.Until(t, "it is not ready", func() bool {
		status, a, _ := d.do("GET", "/readyz", "")
		return status == http.StatusServiceUnavailable && strings.Contains(a.Detail, "log")
	})
	exec(t, db, "ALTER TABLE elsewhere RENAME TO specwatch_migrations")
	programtest.Until(t, "it is ready again", func() bool { status, _, _ := d.do("GET", "/readyz", ""); return status == http.StatusOK })
}
