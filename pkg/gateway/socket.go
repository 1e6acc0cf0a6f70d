package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/overview"
	"github.com/specwatch/specwatch/pkg/store"
)

// Close codes, and what the client should do. A message of more than maxMessage
// bytes is answered with 1009, after which clients must not reconnect.
const (
	closeGoingAway = websocket.CloseGoingAway         // 1001: the gateway stops; reconnect
	closeBad       = websocket.ClosePolicyViolation   // 1008: the client sent an invalid message; do not reconnect
	closeTrouble   = websocket.CloseInternalServerErr // 1011: the database cannot be read; reconnect later
	closeSlow      = websocket.CloseTryAgainLater     // 1013: too slow; resume by cursor
)

const (
	pageLimit     = 1_000            // missed events in one message
	maxPages      = 4                // of missed events that are read, or wait for memory, at once
	budgetTimeout = 15 * time.Second // of a message that waits until others are written
	pingTimeout   = 10 * time.Second // of writing a ping
	farewell      = time.Minute      // for a client to read the last message and the close code
	pingEvery     = 25 * time.Second
	outageTold    = 2 * time.Second // how long the feed cannot read until clients are told
	pongTimeout   = 60 * time.Second
	maxMessage    = 4 << 10 // bytes that a client may send at once
	maxReason     = 123     // bytes of a close reason: RFC 6455, section 5.5
)

type updateData struct {
	State  *overview.Snapshot `json:"state,omitempty"`
	Events event.List         `json:"events"`
}

type message struct {
	Type    string     `json:"type"`
	From    string     `json:"from,omitempty"`
	Cursor  string     `json:"cursor"`
	Expired bool       `json:"expired,omitempty"` // the cursor was of another history: drop what you hold
	Data    updateData `json:"data"`
}

func update(b *feed.Batch, st *overview.Snapshot) *message {
	return &message{Type: "event_update", From: b.From.String(), Cursor: b.Cursor.String(), Data: updateData{State: st, Events: b.Events}}
}

// encode returns what json.Marshal returns, without reading the events again.
func (m *message) encode() []byte {
	b := append([]byte(`{"type":"`), m.Type...)
	if m.From != "" {
		b = append(append(b, `","from":"`...), m.From...)
	}
	b = append(append(append(b, `","cursor":"`...), m.Cursor...), '"')
	if m.Expired {
		b = append(b, `,"expired":true`...)
	}
	b = append(b, `,"data":{`...)
	if m.Data.State != nil {
		b = append(append(append(b, `"state":`...), m.Data.State.JSON...), ',')
	}
	return append(m.Data.Events.AppendJSON(append(b, `"events":`...)), '}', '}')
}

// frame is a message that is encoded once for all clients.
type frame struct {
	*websocket.PreparedMessage
	bytes int
	state *overview.Snapshot // that it carries; nil: none
}

func newFrame(m *message) (*frame, error) {
	text := m.encode()
	prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, text)
	return &frame{prepared, 2 * len(text), m.Data.State}, err // the message and its frame
}

// encode encodes a batch for all clients, at most once a second with the state.
func (g *Gateway) encode(b *feed.Batch) (*frame, error) {
	return newFrame(update(b, g.source.Overview.Attach(g.stopping, b)))
}

// frames has the frames of batches, each for as long as its batch is in memory.
// The zero value can be used.
type frames struct {
	mu sync.Mutex
	of map[weak.Pointer[feed.Batch]]func() (*frame, error)
}

// get returns the frame of a batch. The first call encodes it.
func (f *frames) get(b *feed.Batch, encode func(*feed.Batch) (*frame, error)) (*frame, error) {
	// A pointer that is not weak would keep the batch after the feed has dropped it.
	key := weak.Make(b)
	f.mu.Lock()
	made := f.of[key]
	if made == nil {
		made = sync.OnceValues(func() (*frame, error) { return encode(b) })
		if f.of == nil {
			f.of = map[weak.Pointer[feed.Batch]]func() (*frame, error){}
		}
		f.of[key] = made
		runtime.AddCleanup(b, f.forget, key)
	}
	f.mu.Unlock()
	return made() // without the lock: clients with other batches do not wait
}

func (f *frames) forget(key weak.Pointer[feed.Batch]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.of, key)
}

// telling is the latest message with only the state. Clients with the same
// cursor share it.
type telling struct {
	mu    sync.Mutex
	at    cursor.Cursor
	frame *frame
}

func (t *telling) of(st *overview.Snapshot, at cursor.Cursor) (f *frame, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.frame == nil || t.frame.state != st || !t.at.Equal(at) {
		f, err := newFrame(update(&feed.Batch{From: at, Cursor: at, Events: []event.Event{}}, st))
		if err != nil {
			return nil, err
		}
		t.at, t.frame = at, f
	}
	return t.frame, nil
}

func (g *Gateway) socket(w http.ResponseWriter, r *http.Request, query url.Values) {
	since, err := api.ParseSince(query.Get("since"))
	if err != nil {
		refuse(w, api.BadRequest(err))
		return
	}
	if !g.originAllowed(r) {
		g.noteOrigin(r)
		refuse(w, api.Problem{Status: http.StatusForbidden, Title: "origin not allowed", Detail: "this page's origin may not open the WebSocket; allow it with --allow-origin"})
		return
	}
	if !websocket.IsWebSocketUpgrade(r) {
		g.noteRefusal("a request for /ws was no WebSocket handshake; a proxy before the gateway must pass the headers Upgrade and Connection on", "from", r.RemoteAddr)
	}
	c := &client{gateway: g, conn: connOf(r), since: since, ended: make(chan struct{})}
	s, ok := g.signedIn(r)
	signed := ok && !g.bearsToken(r)
	g.sockets.Add(1)
	if c.ws, err = g.upgrader.Upgrade(w, r, nil); err != nil {
		g.sockets.Done()
		return // the upgrader has answered
	}
	if c.conn == nil {
		c.conn = &conn{Conn: c.ws.NetConn()}
	}
	// The request and all that the server made for it are let go.
	go func() {
		defer g.sockets.Done()
		if signed {
			c.live(&s)
		} else {
			c.live(nil)
		}
	}()
}

// client is one WebSocket. While nothing comes it costs one goroutine, which
// reads; another writes, and ends once there is nothing to write.
type client struct {
	gateway *Gateway
	ws      *websocket.Conn
	conn    *conn
	ctx     context.Context
	cancel  context.CancelCauseFunc

	writing sync.Mutex   // one message at a time
	turn    atomic.Int32 // of the goroutine that writes
	ping    atomic.Bool  // one is due
	slow    atomic.Bool  // reads its messages too slowly
	sub     atomic.Pointer[feed.Subscription]

	// Of the goroutine that writes.
	since   api.Since
	greeted bool
	version string // of the state that the client was sent last …
	stated  int64  // … and its number
	code    int    // why the socket is closed; 0: the client has gone
	ended   chan struct{}
}

// Turns of the goroutine that writes.
const (
	resting int32 = iota // there is none
	writes
	writesAgain // something came meanwhile
)

// live reads until the client or the gateway ends the socket.
func (c *client) live(s *session) {
	g := c.gateway
	c.ctx, c.cancel = context.WithCancelCause(g.stopping)
	defer c.cancel(nil)
	context.AfterFunc(c.ctx, func() {
		if g.stopping.Err() != nil {
			c.conn.finish(time.Now().Add(stopGrace))
		}
		// A client that is too slow is unsubscribed.
		if sub := c.sub.Load(); sub != nil {
			sub.Close()
		}
		c.wake()
	})
	if s != nil {
		defer g.sessions.attach(*s, func() { c.cancel(errSignedOut) })()
	}
	c.conn.watch(socketSlow, socketStall, c.part)
	g.clients.add(c)
	defer g.clients.remove(c)
	c.wake()
	c.cancel(c.read())
	<-c.ended
	if c.code != 0 {
		// A connection that is closed while the client still sends is reset,
		// and what the client has not read yet, also the close code, is lost.
		io.Copy(io.Discard, c.conn) //nolint:errcheck // the client has gone
	}
	c.ws.Close()
}

// part is called after each part of a message that was written.
func (c *client) part(slow bool) {
	if slow {
		c.slow.Store(true)
		c.cancel(errSlow)
		return
	}
	c.alive()
}

// wake starts the goroutine that writes, unless it runs.
func (c *client) wake() {
	for {
		switch {
		case c.turn.CompareAndSwap(resting, writes):
			go c.write()
			return
		case c.turn.CompareAndSwap(writes, writesAgain), c.turn.Load() == writesAgain:
			return
		}
	}
}

// write sends what there is, and ends the socket after an error.
func (c *client) write() {
	for {
		if err := c.pass(); err != nil {
			c.end(err) // and nobody writes any more
			return
		}
		if c.turn.CompareAndSwap(writes, resting) {
			return
		}
		c.turn.Store(writes)
	}
}

// end tells the client why the socket is closed.
func (c *client) end(err error) {
	defer close(c.ended)
	code, reason := c.reason(err)
	at := time.Now().Add(farewell)
	c.conn.finish(at)
	if code == 0 || c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), at) != nil {
		c.ws.Close() // and reading ends
		return
	}
	c.code = code
	c.conn.CloseWrite() //nolint:errcheck // the client has gone
}

func (c *client) reason(err error) (code int, reason string) {
	cause := context.Cause(c.ctx)
	var bad badMessage
	var problem *store.Problem
	switch {
	case c.gateway.stopping.Err() != nil:
		return closeGoingAway, "the gateway stops; reconnect"
	case errors.As(cause, &bad):
		return closeBad, string(bad)
	case errors.Is(err, feed.ErrSlow), errors.Is(err, errSlow), errors.Is(cause, errSlow):
		return closeSlow, "too slow; resume by cursor"
	case errors.Is(cause, errOutage):
		return closeTrouble, "the database cannot be read now; reconnect"
	case c.ctx.Err() != nil, errors.Is(err, errGone):
		return 0, ""
	case errors.Is(err, errBusy):
		return closeSlow, "too many clients are being sent what they missed; resume by cursor"
	case errors.Is(err, store.ErrExpired):
		return closeSlow, "the history of the database changed; resume by cursor"
	case errors.As(err, &problem) && problem.Code == store.Behind:
		how, _, _ := strings.Cut(problem.Error(), ";")
		return closeSlow, how[:min(len(how), maxReason)]
	}
	c.gateway.options.Log.Warn("socket closed", "error", err)
	return closeTrouble, "the database cannot be read now; reconnect"
}

// clients are the WebSockets of a gateway.
type clients struct {
	mu  sync.Mutex
	all map[*client]struct{}
}

func (s *clients) add(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*client]struct{}{}
	}
	s.all[c] = struct{}{}
}

func (s *clients) remove(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
}

func (s *clients) each(f func(*client)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.all {
		f(c)
	}
}

// wakeClients waits for all clients at once: for events, for another state, for
// the time of a ping and for an outage of the database.
func (g *Gateway) wakeClients(ctx context.Context) {
	pings := time.NewTicker(pingEvery)
	defer pings.Stop()
	// Both are compared, however select returns: it takes one channel of several
	// that are closed, and the next turn gets new channels.
	var knownEnd feed.End
	var knownState *overview.Snapshot
	connected := true
	var outage <-chan time.Time
	for {
		end, changed := g.source.Feed.End()
		state, told := g.source.Overview.Told()
		if end != knownEnd || state != knownState {
			knownEnd, knownState = end, state
			g.clients.each((*client).wake)
		}
		if now := g.source.Feed.Stats().Connected; now != connected {
			connected, outage = now, nil
			if !now {
				outage = time.After(outageTold)
			}
		}
		select {
		case <-changed:
		case <-outage:
			// Not before: a server that restarts is back by then.
			outage = nil
			g.clients.each(func(c *client) { c.cancel(errOutage) })
		case <-told:
		case <-pings.C:
			g.clients.each(func(c *client) {
				c.ping.Store(true)
				c.wake()
			})
		case <-ctx.Done():
			return
		}
	}
}

// badMessage is why a client is disconnected and must not reconnect.
type badMessage string

func (b badMessage) Error() string { return string(b) }

const errSignedOut = badMessage("signed out; sign in again")

var (
	errGone = errors.New("the client has gone")
	errSlow = errors.New("the client does not take its messages")
	// errOutage tells clients of an outage, which looks to them like a time
	// without events.
	errOutage = errors.New("the database cannot be read")
)

func (c *client) alive() { c.conn.SetReadDeadline(time.Now().Add(pongTimeout)) } //nolint:errcheck // the next read tells

// read answers the client's pings until the client goes.
func (c *client) read() error {
	c.ws.SetReadLimit(maxMessage)
	c.ws.SetPongHandler(func(string) error { c.alive(); return nil })
	c.alive()
	for {
		kind, text, err := c.ws.ReadMessage()
		if err != nil {
			return errGone
		}
		c.alive()
		if kind != websocket.TextMessage || !isPing(text) {
			return badMessage(`the only message that a client may send is {"type":"ping"}`)
		}
		pong, err := json.Marshal(map[string]string{"type": "pong", "timestamp": time.Now().UTC().Format(event.TimeLayout)})
		if err != nil {
			return err
		}
		if c.put(func() error { return c.ws.WriteMessage(websocket.TextMessage, pong) }) != nil {
			return errGone
		}
	}
}

func isPing(text []byte) bool {
	var m struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(text, &m) == nil && m.Type == "ping"
}

// put writes one message. A client that read it slowly gets no other.
func (c *client) put(write func() error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := write()
	switch {
	case c.slow.Load():
		return errSlow
	case err != nil:
		return errGone
	}
	return nil
}

// pass sends the first message, missed events, and then the batches of the feed.
func (c *client) pass() error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if !c.greeted {
		if err := c.greet(); err != nil {
			return err
		}
		c.greeted = true
	}
	for {
		if c.ping.Swap(false) {
			if err := c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingTimeout)); err != nil {
				return errSlow
			}
		}
		f, err := c.next()
		if f == nil || err != nil {
			return err
		}
		if err := c.send(f); err != nil {
			return err
		}
		if f.state != nil {
			c.version, c.stated = f.state.Version, f.state.Number
		}
	}
}

// greet sends the first message and missed events. They are read, and kept in
// memory, for this client only.
func (c *client) greet() error {
	g := c.gateway
	err := c.page(func(reading context.Context) (*message, error) {
		sub, state, m, err := g.greet(reading, c.since)
		if err != nil {
			return nil, err
		}
		c.version, c.stated = state.Version, state.Number
		if c.sub.Store(sub); c.ctx.Err() != nil {
			sub.Close()
		}
		return m, nil
	})
	for more := true; more && err == nil; {
		err = c.page(func(reading context.Context) (*message, error) {
			b, err := c.sub.Load().Catch(reading)
			if b == nil || err != nil {
				more = false
				return nil, err
			}
			return update(b, nil), nil
		})
	}
	c.since = api.Since{}
	return err
}

// noWait is a channel that never blocks.
var noWait = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// next is what the client lacks; nil: nothing.
func (c *client) next() (*frame, error) {
	g, sub := c.gateway, c.sub.Load()
	if told, _ := g.source.Overview.Told(); told != nil && told.Version != c.version && told.Number > c.stated && sub.Current() && !told.Lacks(sub) {
		return g.telling.of(told, sub.Cursor())
	}
	b, err := sub.Next(c.ctx, noWait)
	if b == nil || err != nil {
		return nil, err
	}
	return g.frames.get(b, g.encode)
}

// send sends a message that all clients get. While a client has not read it, it
// stays in memory for this client.
func (c *client) send(f *frame) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if f.bytes > smallAnswer {
		ctx, cancel := context.WithTimeout(c.ctx, budgetTimeout)
		defer cancel()
		release := c.gateway.budget.await(ctx, f, f.bytes, c.conn)
		if release == nil {
			return errBusy
		}
		defer release()
	}
	return c.put(func() error { return c.ws.WritePreparedMessage(f.PreparedMessage) })
}

// page sends what read returns, unless it is nil. Few pages are read at once, and
// none while there is no memory for a slow client.
func (c *client) page(read func(context.Context) (*message, error)) error {
	g := c.gateway
	text, release, err := func() ([]byte, func(), error) {
		ctx, cancel := context.WithTimeout(c.ctx, pollTimeout)
		defer cancel()
		if g.pages.Acquire(ctx, 1) != nil {
			return nil, nil, errBusy
		}
		defer g.pages.Release(1)
		m, err := read(ctx)
		if m == nil || err != nil {
			return nil, func() {}, err
		}
		text := m.encode()
		release := g.budget.await(ctx, c, len(text), c.conn)
		if release == nil {
			return nil, nil, errBusy
		}
		return text, release, nil
	}()
	if err != nil || text == nil {
		return err
	}
	defer release()
	return c.put(func() error { return c.ws.WriteMessage(websocket.TextMessage, text) })
}

// greet reads the state and the first page of missed events.
func (g *Gateway) greet(ctx context.Context, since api.Since) (*feed.Subscription, *overview.Snapshot, *message, error) {
	hello := &message{Type: "connection_established"}
	sub, events, err := since.Subscribe(ctx, g.source.Store, g.source.Feed, pageLimit)
	if errors.Is(err, store.ErrExpired) {
		hello.Expired = true
		sub, events, err = api.Since{}.Subscribe(ctx, g.source.Store, g.source.Feed, pageLimit)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	at := sub.Cursor()
	st, err := g.source.Overview.At(ctx, at)
	if err != nil {
		sub.Close()
		return nil, nil, nil, err
	}
	hello.Cursor, hello.Data = at.String(), updateData{State: st, Events: events}
	return sub, st, hello, nil
}
