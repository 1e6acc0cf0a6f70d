//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// client is one WebSocket that reads every message. It searches the bytes of a
// message and does not decode it, so that it uses little of the CPU.
type client struct {
	ws   *websocket.Conn
	took func(text []byte, at time.Time)

	mu     sync.Mutex
	cond   *sync.Cond
	events int
	err    error
	done   chan struct{}
}

// dial opens a WebSocket and returns after its first message.
func dial(ctx context.Context, address string, took func(text []byte, at time.Time), say ...string) (*client, error) {
	dialer := websocket.Dialer{HandshakeTimeout: patience, ReadBufferSize: 16 << 10, WriteBufferSize: 512}
	ws, _, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(address, "http"), nil)
	if err != nil {
		return nil, err
	}
	for _, text := range say {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			ws.Close()
			return nil, err
		}
	}
	c := &client{ws: ws, took: took, done: make(chan struct{})}
	c.cond = sync.NewCond(&c.mu)
	greeted := make(chan struct{})
	go c.read(sync.OnceFunc(func() { close(greeted) }))
	select {
	case <-greeted:
		return c, nil
	case <-c.done:
		return nil, c.err
	case <-ctx.Done():
		c.close()
		return nil, ctx.Err()
	}
}

// idle is the least readable message of a reader of Centrifugo.
var idle = []byte("{}")

func (c *client) read(greeted func()) {
	defer close(c.done)
	for {
		_, text, err := c.ws.ReadMessage()
		at := time.Now()
		if err == nil && bytes.Equal(text, idle) {
			err = c.ws.WriteMessage(websocket.TextMessage, idle)
		}
		n := 0
		if err == nil {
			n = bytes.Count(text, idMark)
			if n > 0 && c.took != nil {
				c.took(text, at)
			}
		}
		c.mu.Lock()
		c.events += n
		c.err = err
		c.cond.Broadcast()
		c.mu.Unlock()
		if err != nil {
			return
		}
		greeted()
	}
}

// got waits until the client has so many events.
func (c *client) got(ctx context.Context, n int) error {
	defer context.AfterFunc(ctx, func() { c.mu.Lock(); defer c.mu.Unlock(); c.cond.Broadcast() })()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.events < n {
		if c.err != nil {
			return c.err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("a client has %d of %d events: %w", c.events, n, ctx.Err())
		}
		c.cond.Wait()
	}
	return nil
}

func (c *client) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events
}

func (c *client) close() {
	c.ws.Close()
	<-c.done
}

// Quotes within an event's data are escaped, so these marks are Specwatch's.
var (
	idMark     = []byte(`{"id":`)
	specMark   = []byte(`"spec":"`)
	cursorMark = []byte(`"cursor":"`)
)

// specs calls f with the number that each event has as its spec.
func specs(text []byte, f func(n int)) {
	for {
		i := bytes.Index(text, specMark)
		if i < 0 {
			return
		}
		text = text[i+len(specMark):]
		end := bytes.IndexByte(text, '"')
		if end < 0 {
			return
		}
		if n, err := strconv.Atoi(string(text[:end])); err == nil {
			f(n)
		}
		text = text[end:]
	}
}

// cursorOf is the cursor of a message or of a poll.
func cursorOf(text []byte) string {
	_, rest, _ := bytes.Cut(text, cursorMark)
	token, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(token)
}

// here is the gateway's cursor of now.
func (p *process) here(ctx context.Context) (string, error) {
	body, _, err := p.poll(ctx, http.DefaultClient, "", "")
	if err != nil {
		return "", err
	}
	for bytes.Contains(body, []byte(`"more":true`)) {
		if body, _, err = p.poll(ctx, http.DefaultClient, cursorOf(body), ""); err != nil {
			return "", err
		}
	}
	return cursorOf(body), nil
}

// poll asks for what follows a cursor.
func (p *process) poll(ctx context.Context, c *http.Client, cursor, tag string) (body []byte, header http.Header, err error) {
	address := p.base + "/api/status?limit=5000&since=" + url.QueryEscape(cursor)
	if cursor == "" {
		address = p.base + "/api/status?last=1&limit=1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, err
	}
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotModified {
		return nil, nil, errors.New(resp.Status + ": " + text.String())
	}
	return text.Bytes(), resp.Header, nil
}
