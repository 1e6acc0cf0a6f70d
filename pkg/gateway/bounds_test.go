package gateway_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/programtest"
)

// heap is what this process, the gateway in it, holds after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

const megabyte = 1 << 20

// deaf asks and never reads the answer.
func (d *server) deaf(request string) net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		d.t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// full fills the table with pages of the largest size.
func (d *server) full() {
	d.t.Helper()
	db := d.connect()
	for range 4 {
		exec(d.t, db, `INSERT INTO events (kind, session, spec, data) SELECT 'spec_failed', 's', n::text, to_jsonb(repeat(md5(n::text), 60)) FROM generate_series(1, 2000) n`)
	}
	// What the feed and the overview keep is there before memory is compared.
	programtest.Until(d.t, "the overview has them", func() bool {
		return strings.Contains(d.scrape(), "\nspecwatch_events_total{kind=\"spec_failed\"} 8000\n")
	})
}

// Clients that never read what they asked for use no more than the memory for
// all of them, do not prevent others from reading, and are disconnected.
func TestClientsThatReadNothing(t *testing.T) { // not parallel: it measures the heap
	d := start(t, gateway.Options{})
	d.full()
	cursor := d.poll("", "&limit=1").Cursor
	for name, request := range map[string]func(i int) string{
		"polls": func(i int) string {
			return fmt.Sprintf("GET /api/status?last=%d&limit=5000 HTTP/1.1\r\nHost: localhost\r\n\r\n", 5000-i)
		},
		"sockets": func(i int) string {
			return "GET /ws?since=" + cursor + " HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			const clients = 150
			for i := range clients {
				d.deaf(request(i))
			}
			most := uint64(0)
			// An honest client gets its full page, and a small one, meanwhile.
			var reading sync.WaitGroup
			reading.Go(func() {
				for end := time.Now().Add(2 * patience); ; <-time.After(100 * time.Millisecond) {
					resp, err := d.client.Get("http://" + d.address + "/api/status?limit=4000&last=4000")
					if err != nil {
						t.Error(err)
						return
					}
					n, err := io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode == http.StatusOK && n > 4*megabyte && err == nil {
						return
					}
					if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
						t.Errorf("%s, %d bytes, %v", resp.Status, n, err)
						return
					}
					if time.Now().After(end) {
						t.Error("an honest client gets no full page")
						return
					}
				}
			})
			for range 20 {
				began := time.Now()
				if status, _, _ := d.do("GET", "/api/status?limit=1", ""); status != http.StatusOK || time.Since(began) > 15*time.Second {
					t.Errorf("a small poll: %d after %s", status, time.Since(began))
				}
				most = max(most, heap())
			}
			reading.Wait()
			most = max(most, heap())
			t.Logf("%d clients that do not read: %d MB more on the heap", clients, (int64(most)-int64(before))/megabyte)
			if most > before+300*megabyte {
				t.Errorf("%d MB more on the heap", (most-before)/megabyte)
			}
			programtest.Until(t, "the memory is given back", func() bool { return heap() < before+40*megabyte })
		})
	}
}

// throttled reads so many bytes a second.
type throttled struct {
	net.Conn
	rate int
}

func (c throttled) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), c.rate/20)])
	<-time.After(time.Duration(n) * time.Second / time.Duration(c.rate))
	return n, err
}

// A client on a poor link gets all of a page that takes it longer than any
// deadline of the gateway, by polling and by WebSocket.
func TestPoorLink(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	d := start(t, gateway.Options{})
	d.full()
	cursor := d.poll("", "&limit=1").Cursor
	const rate = 250_000
	dial := func(network, address string) (net.Conn, error) {
		c, err := net.Dial(network, address)
		if err != nil {
			return nil, err
		}
		return throttled{c, rate}, c.(*net.TCPConn).SetReadBuffer(16 << 10)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		client := http.Client{Transport: &http.Transport{DisableCompression: true, DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return dial(network, address)
		}}}
		began := time.Now()
		resp, err := client.Get("http://" + d.address + "/api/status?last=4000&limit=4000")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		var a answer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || len(a.Events) < 3_900 {
			t.Errorf("after %s: %d events, %v", time.Since(began), len(a.Events), err)
		}
		t.Logf("polled within %s", time.Since(began))
	})
	reading.Go(func() {
		began := time.Now()
		conn, _, err := (&websocket.Dialer{NetDial: dial}).Dial("ws://"+d.address+"/ws?since="+cursor, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		var p push
		if err := conn.ReadJSON(&p); err != nil || len(p.Data.Events) < 1_000 {
			t.Errorf("after %s: %d events, %v", time.Since(began), len(p.Data.Events), err)
		}
		t.Logf("pushed within %s", time.Since(began))
	})
	reading.Wait()
}

// What comes compressed is refused, before anything of it is unpacked.
func TestCompressedInput(t *testing.T) {
	t.Parallel()
	d := start(t, gateway.Options{})
	var bomb strings.Builder
	z := gzip.NewWriter(&bomb)
	z.Write([]byte(strings.Repeat(" ", 100*megabyte)))
	z.Close()
	for _, encoding := range []string{"gzip", "deflate", "br", "zstd", "identity, gzip"} {
		if status, a, h := d.do("POST", "/api/events", bomb.String(), "Content-Encoding", encoding); status != http.StatusUnsupportedMediaType || h.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: %d %+v", encoding, status, a)
		}
	}
	if status, a, _ := d.do("POST", "/api/events", `{"kind":"spec_started","session":"s"}`, "Content-Encoding", "identity"); status != http.StatusCreated {
		t.Errorf("identity: %d %+v", status, a)
	}
}

// Bodies without an end are not kept in memory, and small ones do not wait for them.
func TestEndlessBodies(t *testing.T) { // not parallel: it measures the heap
	d := start(t, gateway.Options{})
	before := heap()
	const clients = 60
	part := []byte(strings.Repeat(" ", megabyte))
	for i := range clients {
		length := "Transfer-Encoding: chunked\r\n\r\n"
		if i%2 == 0 {
			length = fmt.Sprintf("Content-Length: %d\r\n\r\n", 16*megabyte)
		}
		c := d.deaf("POST /api/events HTTP/1.1\r\nHost: localhost\r\n" + length)
		go func() {
			for range 15 {
				if i%2 == 1 {
					fmt.Fprintf(c, "%x\r\n", megabyte)
				}
				if _, err := c.Write(part); err != nil {
					return
				}
				if i%2 == 1 {
					io.WriteString(c, "\r\n")
				}
			}
		}()
	}
	most := uint64(0)
	for range 20 {
		if status, a, _ := d.do("POST", "/api/events", `{"kind":"spec_started","session":"s"}`); status != http.StatusCreated {
			t.Errorf("a small body: %d %+v", status, a)
		}
		most = max(most, heap())
		<-time.After(50 * time.Millisecond)
	}
	t.Logf("%d bodies that do not end: %d MB more on the heap", clients, (int64(most)-int64(before))/megabyte)
	if most > before+200*megabyte {
		t.Errorf("%d MB more on the heap", (most-before)/megabyte)
	}
}
