package feed

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"time"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	memoryBytes = 8 << 20     // of data in a page from memory
	memoryWait  = time.Second // for a read; the connection may be lost while the database works
)

// Since is store.Since from memory, for a cursor within the ring. It waits for a
// read that began after the call, so it returns all rows that were committed
// before. Concurrent callers share this read. ok is false if only the database
// can answer.
func (f *Feed) Since(ctx context.Context, c cursor.Cursor, limit int) (page store.Page, ok bool) {
	if c.IsZero() || c.Paging() || !f.inRing(c) {
		return page, false
	}
	err := f.afterLook(ctx, func() { page, ok = f.remembered(c, limit) })
	return page, ok && err == nil
}

// Fresh returns a cursor that has seen all that was committed before the call,
// and how many events prune had removed. Results that were read when both had
// the same values are still valid. ok is false if the feed cannot tell.
func (f *Feed) Fresh(ctx context.Context) (here cursor.Cursor, pruned int64, ok bool) {
	err := f.afterLook(ctx, func() {
		here, pruned, ok = f.rest, f.pruned, f.ready && f.stats.Connected && !f.position.Paging()
	})
	return here, pruned, ok && err == nil
}

// afterLook calls answer, with mu held, once a read that began after the call
// has ended. Concurrent callers share the read. It waits for at most
// memoryWait.
func (f *Feed) afterLook(ctx context.Context, answer func()) error {
	ctx, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	f.mu.Lock()
	next := f.begun + 1
	f.mu.Unlock()
	f.Look()
	return f.await(ctx, func() bool {
		if f.done < next {
			return false
		}
		answer()
		return true
	})
}

func (f *Feed) inRing(c cursor.Cursor) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.after(c)
	return ok
}

// AtEnd reports whether the cursor has seen all that the feed has read. It does
// not wait for a read.
func (f *Feed) AtEnd(c cursor.Cursor) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.after(c)
	return ok && at == len(f.ring)
}

// after returns how many batches of the ring the cursor has seen. Last of the
// cursor must be the last row of these: that shows that the cursor belongs to
// the history that the feed has read. The caller holds mu.
func (f *Feed) after(c cursor.Cursor) (at int, ok bool) {
	if !f.ready || !f.stats.Connected || c.Epoch != f.rest.Epoch || f.position.Paging() || !f.rest.From.Contains(c.From) {
		return 0, false
	}
	if c.Last == f.rest.Last && c.From.Contains(f.rest.From) {
		return len(f.ring), true
	}
	// Each cursor in the ring contains the one before, so binary search works.
	at = sort.Search(len(f.ring), func(i int) bool { return !c.From.Contains(f.ring[i].From.From) }) - 1
	return at, at >= 0 && c.Last == f.ring[at].From.Last
}

// remembered returns the page after the cursor. The caller holds mu.
func (f *Feed) remembered(c cursor.Cursor, limit int) (store.Page, bool) {
	at, ok := f.after(c)
	if !ok {
		return store.Page{}, false
	}
	page := store.Page{Events: []event.Event{}, Cursor: c, At: f.now(), Pruned: f.pruned}
	if at == len(f.ring) {
		return page, true
	}
	type row struct {
		xid uint64
		event.Event
	}
	var rows []row
	bytes := 0
	for _, b := range f.ring[at:] {
		bytes += b.bytes
		for i, xid := range b.xids {
			if !c.From.Visible(xid) {
				rows = append(rows, row{xid, b.Events[i]})
			}
		}
		if len(rows) > limit || bytes > memoryBytes {
			return page, false // the database reads pages
		}
	}
	page.Cursor = f.rest
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.xid, b.xid), cmp.Compare(a.ID, b.ID)) })
	for _, r := range rows {
		page.Events = append(page.Events, r.Event)
		page.Xids = append(page.Xids, r.xid)
	}
	return page, true
}
