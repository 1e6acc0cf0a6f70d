//go:build unix

package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// Events are pushed: they come although the next read is an hour away.
func TestTailIsPushed(t *testing.T) {
	direct := migrated(t)
	gateway := direct.throughAGateway(t)
	address := strings.TrimPrefix(gateway.env[0], envGateway+"=")
	t.Setenv(envWriteToken, "write-secret")
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv(envDatabaseURL, direct.url) // it may carry a password
	for name, db := range map[string]*database{"database": {}, "gateway": {gateway: address}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			from, err := db.destination(ctx, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			defer from.close()
			var printed, says programtest.Output
			followed := make(chan error, 1)
			go func() {
				tail := tail{from: from, push: true, interval: time.Hour, out: bufio.NewWriter(&printed), err: &says}
				followed <- tail.follow(ctx)
			}()
			for _, kind := range []string{"one." + name, "two." + name, "three." + name} {
				direct.insert(t, kind, "", "{}")
				programtest.Until(t, kind+" is printed", func() bool { return strings.Contains(printed.String(), kind) })
			}
			cancel()
			if err := <-followed; err != nil {
				t.Error(err)
			}
			if n := strings.Count(printed.String(), "one."+name); n != 1 {
				t.Errorf("printed %d times", n)
			}
			if !strings.Contains(says.String(), "--since ") {
				t.Errorf("says %s", &says)
			}
		})
	}
}

// An outage is told once and costs nothing, also while events are pushed; and a proxy
// that passes no WebSocket on costs only the time between two reads.
func TestTailWithoutPush(t *testing.T) {
	t.Parallel()
	server := postgrestest.Cluster(t, nil)
	a := place(t, server.URL())
	a.mustRun(t, "migrate")
	p := a.start(t, nil, "tail")
	a.insert(t, "my.first", "p", "{}")
	programtest.Until(t, "the first is printed", func() bool { return strings.Contains(p.out.String(), "first") })
	stop(t, server)
	programtest.Until(t, "the outage is told", func() bool { return strings.Contains(p.err.String(), "cannot read now") })
	restart(t, server)
	a.insert(t, "my.second", "p", "{}")
	programtest.Until(t, "the second is printed", func() bool { return strings.Contains(p.out.String(), "second") })
	if got := p.err.String(); strings.Count(got, "\n") != 1 || strings.Count(p.out.String(), "\n") != 2 {
		t.Errorf("prints %s, says %s", &p.out, got)
	}

	gateway := a.throughAGateway(t)
	to, err := url.Parse(strings.TrimPrefix(gateway.env[0], envGateway+"="))
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(to)
	refused := make(chan struct{}, 1_000)
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/ws") {
			refused <- struct{}{}
			http.Error(w, "no WebSocket", http.StatusBadRequest)
			return
		}
		pass.ServeHTTP(w, r)
	}), ReadHeaderTimeout: time.Minute}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go proxy.Serve(listener)
	t.Cleanup(func() { proxy.Close() })
	gateway.env[0] = envGateway + "=http://" + listener.Addr().String()
	p = gateway.start(t, nil, "tail")
	<-refused
	a.insert(t, "my.third", "p", "{}")
	programtest.Until(t, "the third is printed", func() bool { return strings.Contains(p.out.String(), "third") })
	if p.err.String() != "" {
		t.Errorf("says %s", &p.err)
	}
}
