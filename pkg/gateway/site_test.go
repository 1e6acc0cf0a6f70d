package gateway_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/programtest"
)

const one = `{"kind":"spec_started","session":"s"}`

// Other sites neither write nor listen, with every way that a browser has.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	// As people write them.
	d := start(t, gateway.Options{Origins: []string{"https://grafana.example/", "HTTPS://Watch.Example:443", "http://[2001:DB8::1]:80", " https://m\u00fcnchen.example"}})
	own := "http://" + d.address
	for _, c := range []struct {
		allowed bool
		header  []string
	}{
		{true, nil}, // a program
		{true, []string{"Origin", own}},
		{true, []string{"Origin", "https://grafana.example"}},
		{true, []string{"Origin", "https://watch.example"}},
		{true, []string{"Origin", "http://[2001:db8::1]"}},
		{true, []string{"Origin", "https://xn--mnchen-3ya.example"}},
		{true, []string{"Origin", "https://elsewhere.example", "Sec-Fetch-Site", "same-origin"}}, // behind a proxy that changes the host
		{false, []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}},
		{false, []string{"Origin", "https://evil.example"}},
		{false, []string{"Origin", "http://grafana.example"}},
		{false, []string{"Origin", "https://grafana.example:8443"}},
		{false, []string{"Origin", "https://grafana.example.evil.example"}},
		{false, []string{"Origin", "http://localhost:1", "Sec-Fetch-Site", "same-site"}},
		{false, []string{"Origin", "null", "Sec-Fetch-Site", "cross-site"}},
	} {
		status, a, _ := d.do("POST", "/api/events", one, c.header...)
		if allowed := status == http.StatusCreated; allowed != c.allowed || !allowed && status != http.StatusForbidden {
			t.Errorf("writing with %q: %d %s", c.header, status, a.Detail)
		}
		conn, resp, err := d.dial("", c.header...)
		if allowed := err == nil; allowed != c.allowed || !allowed && resp.StatusCode != http.StatusForbidden {
			t.Errorf("listening with %q: %v", c.header, err)
		}
		if err == nil {
			conn.Close()
		}
	}
	// A form of another site: its content types need no preflight request.
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		for _, path := range []string{"/api/events", "/api/login", "/api/logout"} {
			if status, _, _ := d.do("POST", path, one, "Content-Type", kind, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"); status != http.StatusForbidden {
				t.Errorf("a form posts %s to %s: %d", kind, path, status)
			}
		}
	}
	// A script of another site cannot read answers: none has a CORS header.
	for _, path := range []string{"/api/status", "/metrics", "/readyz", "/"} {
		for _, origin := range []string{"https://evil.example", "https://grafana.example"} {
			_, _, h := d.do("GET", path, "", "Origin", origin)
			for name := range h {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s of %s: %s: %s", origin, path, name, h.Get(name))
				}
			}
		}
	}
	if status, _, h := d.do("OPTIONS", "/api/events", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"); status < 400 || h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a question before a request: %d", status)
	}
	_, _, h := d.do("GET", "/", "")
	if !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'self'") || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("headers: %v", h)
	}
}

// A name that somebody made resolve to this machine gets nothing, whether the
// gateway has tokens or not.
func TestRebinding(t *testing.T) {
	t.Parallel()
	for _, o := range []gateway.Options{{}, {ReadToken: "read-secret", WriteToken: "write-secret"}} {
		var log programtest.Output
		o.Origins, o.Hosts, o.Log = []string{"https://watch.example"}, []string{"Gateway:8001"}, slog.New(slog.NewTextHandler(&log, nil))
		d := start(t, o)
		for host, allowed := range map[string]bool{
			"localhost": true, "localhost:8001": true, "LOCALHOST": true, "app.localhost:1": true, "127.0.0.1:8001": true, "127.9.9.9": true, "[::1]:8001": true,
			"192.0.2.7:8001": true, "[2001:db8::7]:8001": true, // addresses resolve to nothing else
			"watch.example": true, "Watch.Example:8443": true, "watch.example.": true, "gateway:8001": true, "gateway": true,
			"evil.example": false, "evil.example:8001": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false, "watch.example.evil.example": false,
			"xlocalhost": false, "gateway.evil.example": false, "127.1": false, "0x7f.1": false, "2130706433": false,
		} {
			for _, path := range []string{"/api/status", "/ws", "/metrics", "/", "/healthz", "/readyz"} {
				if status, _, _ := d.do("GET", path, "", "Host", host, "X-Forwarded-Host", "localhost"); (status != http.StatusMisdirectedRequest) != allowed {
					t.Errorf("%s of %s: %d", path, host, status)
				}
			}
			if status, _, _ := d.do("POST", "/api/events", one, "Host", host, "Authorization", "Bearer write-secret"); (status == http.StatusCreated) != allowed {
				t.Errorf("writing to %s: %d", host, status)
			}
		}
		if !strings.Contains(log.String(), "--allow-host evil.example") && !strings.Contains(log.String(), "--allow-host ") {
			t.Errorf("the log says nothing: %s", log.String())
		}
	}
}

// The log says what to set when a proxy hides what the gateway needs to know.
func TestRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	var log programtest.Output
	d := start(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, resp, err := d.dial("", "Origin", "https://watch.example"); err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("%v", err)
	}
	if status, a, _ := d.do("GET", "/ws", ""); status != http.StatusBadRequest || !strings.Contains(a.Detail, "Upgrade") {
		t.Errorf("%d %+v", status, a)
	}
	if status, _, _ := d.do("GET", "/api/status", "", "Host", "watch.example"); status != http.StatusMisdirectedRequest {
		t.Error(status)
	}
	for _, says := range []string{"--allow-origin https://watch.example", "Upgrade and Connection", "--allow-host watch.example"} {
		if !strings.Contains(log.String(), says) {
			t.Errorf("no %q in %s", says, log.String())
		}
	}
	// Anybody can cause such lines, so their number and length are limited.
	before := len(log.String())
	for i := range 500 {
		d.do("GET", "/healthz", "", "Host", fmt.Sprint(strings.Repeat("x", 2_000), i, ".example"))
	}
	if grown := len(log.String()) - before; grown > 50_000 {
		t.Errorf("500 refusals make %d bytes of log", grown)
	}
}

func TestCheck(t *testing.T) {
	both := gateway.Options{ReadToken: "r", WriteToken: "w"}
	for address, open := range map[string]bool{"127.0.0.1:8001": true, "[::1]:1": true, "localhost:1": true, "0.0.0.0:1": false, ":8001": false, "192.0.2.1:1": false, "[::]:1": false, "example.org:1": false} {
		if _, err := (gateway.Options{ReadToken: "r"}).Check(address); (err == nil) != open {
			t.Errorf("%s: %v", address, err)
		}
		if o, err := both.Check(address); err != nil {
			t.Errorf("%s with tokens: %v", address, err)
		} else if address == "example.org:1" && !strings.Contains(fmt.Sprint(o.Hosts), "example.org") {
			t.Errorf("its own name is not known: %q", o.Hosts)
		}
	}
	if _, err := both.Check("8001"); err == nil {
		t.Error("an address without a port was taken")
	}
}
