package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Profiles show what is in memory, so no other machine gets to them: not by
// an address, nor by a name that another site's page leads here.
func TestProfilesAreForThisMachine(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "watch.example:0", "127.0.0.1", ""} {
		l, err := listenProfiles(address)
		var use wrongUse
		if !errors.As(err, &use) {
			t.Errorf("%q: %v", address, err)
		}
		if l != nil {
			l.Close()
		}
	}
	l, err := listenProfiles("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveProfiles(ctx, l) }()
	get := func(host string) (int, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr().String()+"/debug/pprof/heap?debug=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	if status, text := get("localhost:6060"); status != http.StatusOK || !strings.Contains(text, "heap profile") {
		t.Errorf("%d: %.100s", status, text)
	}
	if status, text := get("rebound.example"); status != http.StatusForbidden || strings.Contains(text, "heap profile") {
		t.Errorf("another name: %d: %.100s", status, text)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
