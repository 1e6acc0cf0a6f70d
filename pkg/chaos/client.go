//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// beginning is the start of a client without a cursor: it reads all events.
const beginning = "1970-01-01T00:00:00Z"

const (
	callPatience = 10 * time.Second // of one call
	linkPatience = 4 * time.Second  // without a message on a WebSocket, though pings are sent
	historyPage  = 5_000
)

// answer is what a poll answers.
type answer struct {
	Events []row  `json:"events"`
	Cursor string `json:"cursor"`
	More   bool   `json:"more"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// client follows a chain of cursors over one or several gateways.
type client struct {
	*chain
	addresses []string // of the gateways, host:port
	rng       *rand.Rand
	http      *http.Client
	hurry     atomic.Bool   // a slow client reads as fast as it can
	gate      sync.Mutex    // held by whoever freezes the client
	toggle    chan struct{} // tells a client that toggles to do so now
}

func newClient(name string, seed uint64, addresses ...string) *client {
	return &client{
		chain: newChain(name), addresses: addresses, toggle: make(chan struct{}, 1),
		rng:  rand.New(rand.NewPCG(seed, hashOf(name))), // #nosec G404 -- the seed repeats it
		http: &http.Client{Timeout: callPatience, Transport: &http.Transport{MaxIdleConns: 8, IdleConnTimeout: 30 * time.Second}},
	}
}

// thaw waits until the client is not frozen.
func (c *client) thaw() {
	c.gate.Lock()
	c.gate.Unlock() //nolint:staticcheck // passing is all
}

// pick chooses a gateway.
func (c *client) pick() string { return c.addresses[c.rng.IntN(len(c.addresses))] }

// between waits for a random time.
func (c *client) between(ctx context.Context, from, to time.Duration) {
	wait(ctx, from+time.Duration(c.rng.Int64N(int64(to-from)+1)))
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// poll asks once; ok says that the answer was taken.
func (c *client) poll(ctx context.Context, address string, limit int) (more, ok bool) {
	since := c.at()
	if since == "" {
		since, limit = beginning, historyPage
		c.setReading(true)
	}
	u := fmt.Sprintf("http://%s/api/status?since=%s&limit=%d", address, url.QueryEscape(since), limit)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		panic(err) // the address is ours
	}
	response, err := c.http.Do(request)
	if err != nil {
		c.answered("poll: no answer")
		return false, false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		c.answered("poll: cut off")
		return false, false
	}
	c.thaw()
	if response.StatusCode != http.StatusOK {
		c.tell("%s said:", address)
	}
	return c.accept(response.StatusCode, text, nil)
}

// accept adds the answer of a poll.
func (c *chain) accept(status int, text []byte, mayOverlap map[int64]bool) (more, ok bool) {
	var a answer
	err := json.Unmarshal(text, &a)
	c.answered(fmt.Sprintf("poll: %d %s", status, a.Title))
	switch {
	case status == http.StatusGone:
		c.expired()
		return false, false
	case status != http.StatusOK:
		return false, false
	case err != nil || a.Cursor == "":
		c.answered("poll: unreadable")
		return false, false
	}
	c.take(a.Events, a.Cursor, mayOverlap)
	if !a.More {
		c.setReading(false)
	}
	return a.More, true
}

// begin reads all events if the client has none.
func (c *client) begin(ctx context.Context) {
	for ctx.Err() == nil && (c.at() == "" || c.isReading()) {
		if _, ok := c.poll(ctx, c.pick(), historyPage); !ok {
			c.between(ctx, 50*time.Millisecond, 250*time.Millisecond)
		}
	}
}

// polls polls until ctx ends.
func (c *client) polls(ctx context.Context, limit int, from, to time.Duration) {
	for ctx.Err() == nil {
		if more, ok := c.poll(ctx, c.pick(), limit); !more || !ok {
			c.between(ctx, from, to)
		}
	}
}

type push struct {
	Type    string `json:"type"`
	From    string `json:"from"`
	Cursor  string `json:"cursor"`
	Expired bool   `json:"expired"`
	Data    struct {
		Events []row `json:"events"`
	} `json:"data"`
}

// socket follows one WebSocket until it ends or ctx does.
func (c *client) socket(ctx context.Context, address string, slow time.Duration) {
	c.begin(ctx)
	if ctx.Err() != nil {
		return
	}
	conn := c.dial(ctx, address, slow > 0)
	if conn == nil {
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	pinging.Go(func() { ping(ctx, conn) })
	for {
		conn.SetReadDeadline(time.Now().Add(linkPatience)) //nolint:errcheck // an error shows at the read
		_, text, err := conn.ReadMessage()
		if err != nil {
			var closed *websocket.CloseError
			switch {
			case ctx.Err() != nil:
			case errors.As(err, &closed):
				c.answered(fmt.Sprintf("socket: closed %d %s", closed.Code, closed.Text))
			default:
				c.answered("socket: cut off")
			}
			return
		}
		c.thaw()
		if ctx.Err() != nil || !c.pushed(text) {
			return
		}
		if slow > 0 && !c.hurry.Load() {
			c.between(ctx, slow/2, slow)
		}
	}
}

// dial returns nil if there is no WebSocket. With a small buffer a client that
// does not read is noticed.
func (c *client) dial(ctx context.Context, address string, smallBuffer bool) *websocket.Conn {
	dialer := websocket.Dialer{HandshakeTimeout: linkPatience}
	if smallBuffer {
		dialer.NetDialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok {
				tcp.SetReadBuffer(64 << 10) //nolint:errcheck // a smaller buffer is a wish
			}
			return conn, err
		}
	}
	since := c.at()
	conn, response, err := dialer.DialContext(ctx, "ws://"+address+"/ws?since="+url.QueryEscape(since), nil)
	if err != nil {
		if response != nil {
			c.answered(fmt.Sprintf("socket: %d", response.StatusCode))
			response.Body.Close()
		} else {
			c.answered("socket: no answer")
		}
		return nil
	}
	return conn
}

// ping sends pings until ctx ends, and then closes the WebSocket.
func ping(ctx context.Context, conn *websocket.Conn) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			conn.Close() // ends the reading
			return
		case <-again.C:
			conn.SetWriteDeadline(time.Now().Add(linkPatience))                 //nolint:errcheck // an error shows at the write
			conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"ping"}`)) //nolint:errcheck // an error shows at the next read
		}
	}
}

// pushed takes a message of a WebSocket; goesOn says that another may follow.
func (c *client) pushed(text []byte) (goesOn bool) {
	var p push
	if err := json.Unmarshal(text, &p); err != nil {
		c.answered("socket: unreadable")
		return false
	}
	switch {
	case p.Expired:
		c.answered("socket: expired")
		c.expired()
		return false
	case p.Type == "connection_established":
		if p.Cursor == "" {
			c.answered("socket: no cursor")
			return false
		}
		c.take(p.Data.Events, p.Cursor, nil)
	case p.Type == "event_update":
		if p.From != c.at() {
			c.gap() // filled by the next connection, which goes on from the cursor held
			return false
		}
		c.take(p.Data.Events, p.Cursor, nil)
	}
	return true
}

// The kinds of clients.

func (c *client) runSocket(ctx context.Context) { c.sockets(ctx, 0) }
func (c *client) runSlow(ctx context.Context)   { c.sockets(ctx, 150*time.Millisecond) }

func (c *client) sockets(ctx context.Context, slow time.Duration) {
	for ctx.Err() == nil {
		c.socket(ctx, c.pick(), slow)
		c.between(ctx, 20*time.Millisecond, 200*time.Millisecond)
	}
}

func (c *client) runPoller(ctx context.Context) {
	c.polls(ctx, 500, 50*time.Millisecond, 300*time.Millisecond)
}

func (c *client) runSmallPages(ctx context.Context) {
	c.polls(ctx, 7, 20*time.Millisecond, 200*time.Millisecond)
}

// runToggling switches between the two modes with one cursor, and between
// gateways, if it has several.
func (c *client) runToggling(ctx context.Context) {
	for live := true; ctx.Err() == nil; live = !live {
		turn, cancel := context.WithTimeout(ctx, 200*time.Millisecond+time.Duration(c.rng.Int64N(int64(3*time.Second))))
		stop := make(chan struct{})
		var listening sync.WaitGroup
		listening.Go(func() {
			select {
			case <-c.toggle:
				cancel()
			case <-stop:
			}
		})
		if live {
			c.sockets(turn, 0)
		} else {
			c.polls(turn, 1+c.rng.IntN(60), 20*time.Millisecond, 200*time.Millisecond)
		}
		close(stop)
		listening.Wait()
		cancel()
	}
}

func hashOf(text string) uint64 { return row{Kind: strings.ToValidUTF8(text, "")}.print() }
