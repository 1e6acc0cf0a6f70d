package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"
)

// listenProfiles opens the address of the profiles. They show what is in
// memory, so only this machine may ask for them.
func listenProfiles(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, wrongUsef("--pprof %q is not host:port, such as 127.0.0.1:6060", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, wrongUsef("--pprof %s: profiles show what is in memory, so they are served on loopback only; use 127.0.0.1, [::1] or localhost", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s for profiles: %w; choose another address with --pprof", address, err)
	}
	// What localhost means is up to the system.
	if at, ok := l.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		l.Close()
		return nil, wrongUsef("--pprof %s leads to %s, which is not loopback", address, l.Addr())
	}
	return l, nil
}

// startProfiles serves the profiles until ctx ends. wait returns when they are not
// served any more.
func startProfiles(ctx context.Context, address string, log *slog.Logger) (wait func(), err error) {
	l, err := listenProfiles(address)
	if err != nil {
		return nil, err
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := serveProfiles(ctx, l); err != nil {
			log.Warn("profiles are not served any more", "error", err)
		}
	})
	return serving.Wait, nil
}

// serveProfiles answers Go's profiling tools until ctx ends.
func serveProfiles(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: ownNames(mux), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ownNames refuses requests by other names than localhost and addresses of
// loopback: a page of another site can make its own host name resolve to this
// machine (DNS rebinding).
func ownNames(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "ask by 127.0.0.1 or localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
