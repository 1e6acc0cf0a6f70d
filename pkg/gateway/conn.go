package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Deadlines of writing to a client. They apply to parts, not to whole answers,
// so that a slow link can receive a large answer.
const (
	writePart   = 64 << 10
	answerStall = 20 * time.Second // a client that reads no part of an answer for this long is disconnected
	socketSlow  = 10 * time.Second // … of a WebSocket message: it gets that message and is then closed
	socketStall = time.Minute      // … and this long: it is disconnected in the middle of the message
)

// listener hands out connections that write in parts.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, stall: answerStall}, nil
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// connOf is the connection of a request, or nil where another server than that
// of Serve accepted it.
func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}

// conn is a client's connection. One goroutine writes at a time.
type conn struct {
	net.Conn

	mu      sync.Mutex
	until   time.Time // deadline of writing that a user of the connection has set
	final   time.Time // deadline of reading and writing that is not extended
	stall   time.Duration
	slow    time.Duration   // 0: it is not reported
	part    func(slow bool) // after each full part, and when one takes longer than slow
	written int64
}

// watch sets the pace of a connection that has become a WebSocket.
func (c *conn) watch(slow, stall time.Duration, part func(slow bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow, c.stall, c.part = slow, stall, part
}

// finish sets the time at which reading and writing end in any case.
func (c *conn) finish(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.final.IsZero() || at.Before(c.final) {
		c.final = at
		c.Conn.SetDeadline(at) //nolint:errcheck // a connection that is closed has ended
	}
}

func (c *conn) sent() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (c *conn) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		n, err := c.writeOne(p[:min(len(p), writePart)])
		written += n
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// writeOne writes a part, or as much as the client reads within stall.
func (c *conn) writeOne(p []byte) (written int, err error) {
	began, slow := time.Now(), false
	for {
		c.mu.Lock()
		notify, pace := c.part, c.stall
		if c.slow > 0 && !slow {
			pace = c.slow
		}
		end := earlier(c.until, c.final)
		c.Conn.SetWriteDeadline(earlier(end, began.Add(pace))) //nolint:errcheck // the write tells
		c.mu.Unlock()
		n, err := c.Conn.Write(p)
		written, p = written+n, p[n:]
		c.mu.Lock()
		c.written += int64(n)
		ended := earlier(c.until, c.final)
		c.mu.Unlock()
		switch {
		case err == nil:
			if notify != nil && written == writePart {
				notify(false)
			}
			return written, nil
		case notify == nil, slow, !errors.Is(err, os.ErrDeadlineExceeded), !ended.IsZero() && !time.Now().Before(ended):
			return written, err
		}
		slow = true
		notify(true)
	}
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	if t.IsZero() {
		return nil // the next part has its own
	}
	return c.Conn.SetWriteDeadline(earlier(t, c.final))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Conn.SetReadDeadline(earlier(t, c.final))
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite closes the writing side of the connection.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
