// Package gateway is the HTTP and WebSocket door: reading by polling or live,
// writing, metrics, health, and the page.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/store"
)

// Options of a gateway. The zero value serves anybody who can reach it.
type Options struct {
	ReadToken  string   // asked of readers; empty: of nobody
	WriteToken string   // asked of writers; empty: of nobody
	Origins    []string // other origins whose pages may open the WebSocket, such as https://grafana.example
	Log        *slog.Logger
}

// Gateway serves one store.
type Gateway struct {
	store    *store.Store
	feed     *feed.Feed
	options  Options
	reads    singleflight.Group
	upgrader websocket.Upgrader
	registry *prometheus.Registry
	sockets  sync.WaitGroup
	stopping context.Context // ends when the sockets must
	stop     context.CancelFunc
}

// New returns a gateway that Serve brings to life.
func New(s *store.Store, o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{store: s, feed: feed.New(s), options: o}
	g.stopping, g.stop = context.WithCancel(context.Background())
	g.upgrader = websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second,
		ReadBufferSize:   1 << 10,
		WriteBufferSize:  4 << 10,
		WriteBufferPool:  &sync.Pool{}, // an idle client holds no write buffer
		CheckOrigin:      g.originAllowed,
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			refuse(w, api.Problem{Status: status, Title: "not a WebSocket request", Detail: reason.Error()})
		},
	}
	g.registry = newRegistry(g.feed)
	return g
}

// CheckAddress refuses to serve an address that others can reach unless both
// tokens are set.
func CheckAddress(address string, o Options) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("the address to listen on is host:port, such as 127.0.0.1:8001: %w", err)
	}
	if isLoopback(host) || o.ReadToken != "" && o.WriteToken != "" {
		return nil
	}
	return fmt.Errorf("%s can be reached from other machines: set SPECWATCH_READ_TOKEN and SPECWATCH_WRITE_TOKEN first, or listen on 127.0.0.1", address)
}

func isLoopback(host string) bool {
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Serve runs the feed and answers on the listener until ctx ends, then closes
// every socket with a word of farewell.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    128 << 10, // a cursor may be long
		ErrorLog:          slog.NewLogLogger(g.options.Log.Handler(), slog.LevelDebug),
	}
	group, ctx := errgroup.WithContext(ctx)
	feeding, stopFeeding := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return g.feed.Run(feeding) })
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		defer stopFeeding()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		g.stop()
		err := server.Shutdown(grace)
		if err != nil {
			server.Close() //nolint:errcheck // what is left is cut off
		}
		g.sockets.Wait()
		return nil
	})
	return group.Wait()
}

// Handler answers requests. Serve must run, or the feed stands still.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	// Compressed, because polling is for poor links: an answer of many events
	// shrinks to a tenth.
	mux.Handle("GET /api/status", gzhttp.GzipHandler(g.reader(g.status)))
	mux.Handle("POST /api/events", g.writer(g.append))
	mux.HandleFunc("POST /api/login", g.login)
	mux.HandleFunc("POST /api/logout", g.logout)
	mux.Handle("GET /ws", g.reader(g.socket))
	mux.Handle("GET /metrics", g.reader(g.metrics().ServeHTTP))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", g.ready)
	methods := map[string]string{"/api/status": "GET", "/api/events": "POST", "/api/login": "POST", "/api/logout": "POST"}
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		if method := methods[r.URL.Path]; method != "" {
			w.Header().Set("Allow", method)
			refuse(w, api.Problem{Status: http.StatusMethodNotAllowed, Title: "method not allowed", Detail: fmt.Sprintf("%s takes %s", r.URL.Path, method)})
			return
		}
		refuse(w, api.Problem{Status: http.StatusNotFound, Title: "not found", Detail: "there is no such path; see GET /api/status, POST /api/events and GET /ws"})
	})
	mux.Handle("/", gzhttp.GzipHandler(page()))

	foreign := http.NewCrossOriginProtection()
	for _, origin := range g.options.Origins {
		if err := foreign.AddTrustedOrigin(origin); err != nil {
			g.options.Log.Warn("an allowed origin is not one", "origin", origin, "error", err)
		}
	}
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, api.Problem{Status: http.StatusForbidden, Title: "cross-origin request", Detail: "pages of other sites may not write here; allow their origin with --allow-origin"})
	}))
	return headers(g.hostChecked(foreign.Handler(mux)))
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		// Styles are injected by the page's own script.
		h.Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'; form-action 'self'")
		next.ServeHTTP(w, r)
	})
}

// ready tells a load balancer whether events can be read.
func (g *Gateway) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := g.store.Ready(ctx); err != nil {
		// Anybody may ask, so the reason stays in the log.
		g.options.Log.Warn("not ready", "error", err)
		p := api.ProblemOf(err)
		p.Status = http.StatusServiceUnavailable
		p.Detail = "events cannot be read; the log of the gateway says why"
		refuse(w, p)
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ready"})
}
