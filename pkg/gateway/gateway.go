// Package gateway is the HTTP and WebSocket server: reading by polling or live,
// writing, metrics, health, and the page.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// Options of a gateway. The zero value serves anybody who can reach it.
type Options struct {
	ReadToken  string      // required of readers; empty: not required
	WriteToken string      // required of writers; empty: not required
	Origins    []string    // other origins whose pages may open the WebSocket, such as https://grafana.example
	Hosts      []string    // host names of this gateway, besides IP addresses, localhost and the hosts of Origins
	BasePath   string      // path prefix of the gateway behind a proxy, such as /watch; requests may have it or not
	TLS        *tls.Config // nil: plain HTTP, behind a proxy that does TLS or on this machine alone
	Log        *slog.Logger
}

// Gateway serves one store.
type Gateway struct {
	source   *api.Source
	options  Options
	reads    singleflight.Group
	reading  *semaphore.Weighted // polls
	bodies   *semaphore.Weighted // of requests, in bytes
	pages    *semaphore.Weighted // of WebSocket clients
	waiting  atomic.Int64
	budget   budget
	telling  telling
	frames   frames
	clients  clients
	origins  map[string]bool
	hosts    map[string]bool
	refusals rate.Sometimes // that are logged
	guesses  *throttle
	sessions sessions
	readied  atomic.Pointer[readiness]
	upgrader websocket.Upgrader
	registry *prometheus.Registry
	sockets  sync.WaitGroup
	stopping context.Context // ends when the gateway is told to stop
	stop     context.CancelFunc
	ending   context.Context // ends stopGrace later, when no request may use the database any more
	end      context.CancelFunc
	cutOff   chan struct{} // closed a moment later, when requests are answered without the database
}

// Times of stopping.
const (
	stopGrace  = time.Second            // for requests to finish and for WebSocket clients to hear of it
	stopCut    = 200 * time.Millisecond // for the database to give up those that did not
	stopAnswer = 500 * time.Millisecond // for their answers
)

// New returns a gateway. It does nothing until Serve is called.
func New(s *store.Store, o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if base, err := parseBasePath(o.BasePath); err != nil {
		o.Log.Warn("the base path is not used", "error", err)
		o.BasePath = ""
	} else {
		o.BasePath = base
	}
	g := &Gateway{source: api.NewSource(s), options: o, reading: semaphore.NewWeighted(maxReads), pages: semaphore.NewWeighted(maxPages),
		bodies: semaphore.NewWeighted(largeBodies * event.MaxBatchBytes)}
	g.stopping, g.stop = context.WithCancel(context.Background())
	g.ending, g.end = context.WithCancel(context.Background())
	g.cutOff = make(chan struct{})
	g.upgrader = websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second,
		ReadBufferSize:   256, // clients send little, and an idle client keeps the buffer
		WriteBufferSize:  4 << 10,
		WriteBufferPool:  &sync.Pool{}, // an idle client holds no write buffer
		CheckOrigin:      g.originAllowed,
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			refuse(w, api.Problem{Status: status, Title: "not a WebSocket request", Detail: reason.Error() + "; a proxy before the gateway must pass the headers Upgrade and Connection of /ws on"})
		},
	}
	g.guesses = newThrottle()
	g.refusals = rate.Sometimes{First: 20, Interval: 10 * time.Second}
	g.origins, g.hosts = map[string]bool{}, map[string]bool{}
	for _, text := range o.Origins {
		origin, err := parseOrigin(text)
		if err != nil {
			o.Log.Warn("an origin is not allowed", "error", err)
			continue
		}
		g.origins[origin] = true
		g.hosts[hostOf(origin[strings.Index(origin, "://")+3:])] = true
	}
	for _, text := range o.Hosts {
		host, err := parseHost(text)
		if err != nil {
			o.Log.Warn("a host is not allowed", "error", err)
			continue
		}
		g.hosts[host] = true
	}
	g.registry = newRegistry(g.source)
	return g
}

// Serve runs the feed and answers on the listener until ctx ends. Then it tells
// every WebSocket client that it stops, lets requests finish for a moment, and
// returns within about 2.5 seconds, whatever the clients and the database do.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    128 << 10, // a cursor may be long
		ErrorLog:          slog.NewLogLogger(g.options.Log.Handler(), slog.LevelDebug),
		ConnContext:       withConn,
	}
	group, ctx := errgroup.WithContext(ctx)
	feeding, stopFeeding := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFeeding()
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		g.source.Run(feeding)
	}()
	waking, stopWaking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWaking()
	group.Go(func() error {
		g.wakeClients(waking)
		return nil
	})
	group.Go(func() error {
		var at net.Listener = listener{l}
		if g.options.TLS != nil {
			at = tls.NewListener(at, g.options.TLS)
		}
		if err := server.Serve(at); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		g.stop()
		defer g.end()
		defer time.AfterFunc(stopGrace, g.end).Stop()
		defer time.AfterFunc(stopGrace+stopCut, func() { close(g.cutOff) }).Stop()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace+stopCut+stopAnswer)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
		g.sockets.Wait()
		stopWaking()
		stopFeeding()
		select {
		case <-fed:
		case <-time.After(stopAnswer): // a database that hangs is not waited for
		}
		return nil
	})
	return group.Wait()
}

// Handler answers requests. Serve must run, or the feed does not read.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	// Polling is for slow links, so answers are compressed: one with many
	// events shrinks to a tenth.
	mux.Handle("GET /api/status", gzhttp.GzipHandler(g.reader(g.status)))
	mux.Handle("POST /api/events", g.writer(g.append))
	mux.HandleFunc("POST /api/login", g.login)
	mux.HandleFunc("POST /api/logout", g.logout)
	mux.Handle("GET /ws", g.reader(g.socket))
	mux.Handle("GET /metrics", g.reader(g.metrics()))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", g.ready)
	// Without these patterns, the page would get the other methods of these paths,
	// and GET /ws would get HEAD requests.
	for pattern, methods := range map[string]string{
		"/api/status": "GET, HEAD", "/api/events": "POST", "/api/login": "POST", "/api/logout": "POST",
		"/ws": "GET", "HEAD /ws": "GET", "/metrics": "GET, HEAD", "/healthz": "GET, HEAD", "/readyz": "GET, HEAD",
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { refuseMethod(w, r, methods) })
	}
	mux.Handle("/", gzhttp.GzipHandler(page()))

	foreign := http.NewCrossOriginProtection()
	for origin := range g.origins {
		if err := foreign.AddTrustedOrigin(origin); err != nil {
			g.options.Log.Warn("an origin is not allowed", "origin", origin, "error", err)
		}
	}
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.noteOrigin(r)
		refuse(w, api.Problem{Status: http.StatusForbidden, Title: "cross-origin request", Detail: "pages of other sites may not write here; allow their origin with --allow-origin"})
	}))
	return headers(g.hostChecked(g.based(foreign.Handler(mux))))
}

// based serves below the base path, and at the root for proxies that strip it and
// for direct requests.
func (g *Gateway) based(next http.Handler) http.Handler {
	base := g.options.BasePath
	if base == "" {
		return next
	}
	below := http.StripPrefix(base, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == base:
			http.Redirect(w, r, base+"/", http.StatusPermanentRedirect)
		case strings.HasPrefix(r.URL.Path, base+"/"):
			below.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// readiness is the result of the last check of the database.
type readiness struct {
	at  time.Time
	err error
}

const (
	readyFor     = time.Second // however many ask
	readyTimeout = 5 * time.Second
)

// ready answers /readyz: whether events can be read.
func (g *Gateway) ready(w http.ResponseWriter, r *http.Request) {
	known := g.readied.Load()
	if known == nil || time.Since(known.at) > readyFor {
		select {
		case <-r.Context().Done():
			return
		case result := <-g.reads.DoChan("ready", func() (any, error) {
			ctx, cancel := context.WithTimeout(g.ending, readyTimeout)
			defer cancel()
			err := g.source.Store.Ready(ctx)
			if err != nil {
				// The endpoint is public, so the reason is only logged.
				g.options.Log.Warn("not ready", "error", err)
			}
			found := &readiness{time.Now(), err}
			g.readied.Store(found)
			return found, nil
		}):
			known = result.Val.(*readiness)
		}
	}
	if known.err != nil {
		p := api.ProblemOf(known.err)
		p.Status = http.StatusServiceUnavailable
		p.Detail = "events cannot be read; the log of the gateway says why"
		refuse(w, p)
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ready"})
}
