package gateway

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Bounds of the memory for answers that clients have not read yet.
const (
	budgetBytes = 64 << 20
	smallAnswer = 64 << 10        // larger answers leave a quarter of the budget to smaller ones
	budgetGrace = 5 * time.Second // a client has at least this long
)

// budget bounds the bytes of answers that are being written. A client may be slow
// as long as there is enough memory; then the slowest is disconnected. (With a
// semaphore, clients that read nothing would block all others.)
type budget struct {
	mu      sync.Mutex
	used    int64
	bodies  map[any]*body
	writers map[*writer]struct{}
	left    chan struct{} // closed when a body has left; nil: none waits
}

// body is text that is being written to one client or to many.
type body struct {
	key     any
	bytes   int64
	writers int
}

type writer struct {
	body  *body
	conn  *conn
	since time.Time
	sent  int64 // by the connection, before
}

// await is take, but waits for memory until ctx ends.
func (r *budget) await(ctx context.Context, key any, bytes int, c *conn) (release func()) {
	again := time.NewTicker(budgetGrace / 10) // there is no event when the grace of a client ends
	defer again.Stop()
	for {
		r.mu.Lock()
		if r.left == nil {
			r.left = make(chan struct{})
		}
		left := r.left
		r.mu.Unlock()
		if release = r.take(key, bytes, c); release != nil {
			return release
		}
		select {
		case <-left:
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// take reserves memory for a body, named by its key. The caller must call release;
// nil: there is no memory.
func (r *budget) take(key any, bytes int, c *conn) (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bodies[key]
	if b == nil {
		limit := int64(budgetBytes)
		if bytes > smallAnswer {
			limit = budgetBytes / 4 * 3
		}
		// A body larger than the budget may pass alone.
		b = &body{key: key, bytes: min(int64(bytes), limit)}
		if !r.fit(b.bytes, limit) {
			return nil
		}
		if r.bodies == nil {
			r.bodies, r.writers = map[any]*body{}, map[*writer]struct{}{}
		}
		r.bodies[key] = b
		r.used += b.bytes
	}
	w := &writer{body: b, conn: c, since: time.Now()}
	if c != nil {
		w.sent = c.sent()
	}
	b.writers++
	r.writers[w] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drop(w)
	}
}

// fit disconnects the slowest clients until the bytes fit. The caller holds mu.
func (r *budget) fit(bytes, limit int64) bool {
	if r.used+bytes <= limit {
		return true
	}
	type slow struct {
		*writer
		rate float64 // bytes a second
	}
	var candidates []slow
	freed := int64(0)
	left := map[*body]int{}
	for w := range r.writers {
		if age := time.Since(w.since); w.conn != nil && age > budgetGrace {
			candidates = append(candidates, slow{w, float64(w.conn.sent()-w.sent) / age.Seconds()})
			if left[w.body]++; left[w.body] == w.body.writers {
				freed += w.body.bytes
			}
		}
	}
	if r.used-freed+bytes > limit {
		return false // disconnecting them would not help
	}
	slices.SortFunc(candidates, func(a, b slow) int { return cmp.Compare(a.rate, b.rate) })
	for _, c := range candidates {
		if r.used+bytes <= limit {
			break
		}
		c.conn.finish(time.Now())
		r.drop(c.writer)
	}
	return true
}

// drop ends a writer, once. The caller holds mu.
func (r *budget) drop(w *writer) {
	if _, there := r.writers[w]; !there {
		return
	}
	delete(r.writers, w)
	if w.body.writers--; w.body.writers == 0 {
		delete(r.bodies, w.body.key)
		r.used -= w.body.bytes
		if r.left != nil {
			close(r.left)
			r.left = nil
		}
	}
}
