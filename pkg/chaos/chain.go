//go:build linux

package chaos

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"strings"
	"sync"
	"time"
)

// row is an event as the HTTP API, the plugin and tail encode it.
type row struct {
	ID      int64           `json:"id"`
	Kind    string          `json:"kind"`
	At      time.Time       `json:"at"`
	Session string          `json:"session"`
	Spec    string          `json:"spec"`
	Data    json.RawMessage `json:"data"`
}

// mark is what a producer writes into data: its own stream of events, in
// which each is committed after the one before.
type mark struct {
	Stream string `json:"s"`
	N      int64  `json:"n"`
}

func (r row) mark() mark {
	var m mark
	json.Unmarshal(r.Data, &m) //nolint:errcheck // data of others has no mark
	return m
}

// print is a fingerprint of the fields of an event. Grafana's frames have
// milliseconds.
func (r row) print() uint64 {
	m := r.mark()
	h := fnv.New64a()
	fmt.Fprint(h, r.ID, "|", r.Kind, "|", r.At.UnixMilli(), "|", r.Session, "|", r.Spec, "|", m.Stream, "|", m.N)
	return h.Sum64()
}

// given is one event that a client has received.
type given struct {
	print uint64
	place int32 // in the order of arrival; 0: read from the history, whose order is that of time
}

// chain is what one client received with cursors that follow one another without
// a break.
type chain struct {
	name    string
	twoWays bool // it takes a stream and polls beside, and tells events apart by id

	mu       sync.Mutex
	cursor   string
	reading  bool // the history, page by page
	held     map[int64]given
	place    int32
	taken    int64
	repeated []int64
	reused   []int64 // ids that came again with another event
	notices  int     // "expired": all that was held is dropped
	dropped  []map[int64]given
	fresh    int // began afresh for a reason of its own
	gaps     int // `from` was not the last cursor
	answers  map[string]int
	trace    io.Writer // receives a line for each step; nil: none
}

// tell writes a step into the trace.
func (c *chain) tell(format string, args ...any) {
	if c.trace != nil {
		fmt.Fprintf(c.trace, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	}
}

func newChain(name string) *chain {
	return &chain{name: name, held: map[int64]given{}, answers: map[string]int{}}
}

// take accepts events and the cursor that stands for them.
func (c *chain) take(rows []row, cursor string, mayOverlap map[int64]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rows {
		c.taken++
		print := r.print()
		if had, twice := c.held[r.ID]; twice {
			if mayOverlap[r.ID] && had.print == print {
				continue
			}
			if had.print != print {
				c.reused = append(c.reused, r.ID)
			} else {
				c.repeated = append(c.repeated, r.ID)
			}
			continue
		}
		g := given{print: print}
		if !c.reading {
			c.place++
			g.place = c.place
		}
		c.held[r.ID] = g
	}
	if len(rows) > 0 || cursor != c.cursor {
		ids := make([]int64, len(rows))
		for i, r := range rows {
			ids[i] = r.ID
		}
		c.tell("took %v, from %s to %s", ids, c.cursor, cursor)
	}
	c.cursor = cursor
}

func (c *chain) at() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cursor
}

func (c *chain) setReading(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = on
}

func (c *chain) isReading() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reading
}

// expired handles the notice that the cursor expired: the client drops its
// events.
func (c *chain) expired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notices++
	c.tell("told to start afresh")
	c.dropped = append(c.dropped, c.held)
	c.forget()
}

// afresh is a start without such a notice: the client was killed.
func (c *chain) afresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh++
	c.tell("begins afresh")
	c.forget()
}

func (c *chain) forget() {
	c.held, c.cursor, c.reading = map[int64]given{}, "", false
}

func (c *chain) answered(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[what]++
	if !strings.HasPrefix(what, "poll: 200") {
		c.tell("%s", what)
	}
}

func (c *chain) gap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gaps++
	c.tell("gap")
}

func (c *chain) has(id int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.held[id]
	return ok
}

func (c *chain) count() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}
