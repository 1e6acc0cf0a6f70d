// Package cursor holds the position of a reader: not a number in a sequence,
// but a PostgreSQL snapshot, the exact set of transactions whose rows the
// reader has seen.
//
// Sequence numbers and clocks are taken before a transaction commits, so a
// reader that remembers the highest one loses every row that commits late. A
// snapshot (pg_current_snapshot(), PostgreSQL 13) names the transactions that
// were still open, and a row is new exactly if its transaction is not in the
// snapshot. This is PostgreSQL's own visibility rule
// (src/backend/access/heap/heapam_visibility.c), applied by the reader.
//
// A cursor covers only what a crash cannot undo. It ends at the transaction of
// the last event row, in order of (xid, id), that the reader has and that is
// known to be flushed to the WAL: after a crash PostgreSQL reuses no
// transaction id up to that one, but may reuse every later one.
package cursor

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is a set of transactions in the form of PostgreSQL's pg_snapshot:
// every xid below Xmax is in the set, except those in Xip; none from Xmax on
// is. Xmin is the lowest xid that is not in the set.
type Snapshot struct {
	Xmin, Xmax uint64
	Xip        []uint64 // ascending, each with Xmin <= xip < Xmax
}

// ParseSnapshot reads PostgreSQL's text form, "xmin:xmax:xip,xip,…".
func ParseSnapshot(text string) (Snapshot, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return Snapshot{}, fmt.Errorf("snapshot %q is not xmin:xmax:xips", text)
	}
	var s Snapshot
	var err error
	if s.Xmin, err = strconv.ParseUint(parts[0], 10, 64); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
	}
	if s.Xmax, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
	}
	if parts[2] != "" {
		for part := range strings.SplitSeq(parts[2], ",") {
			xip, err := strconv.ParseUint(part, 10, 64)
			if err != nil {
				return Snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
			}
			s.Xip = append(s.Xip, xip)
		}
	}
	return s, s.check()
}

// String is PostgreSQL's text form.
func (s Snapshot) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d:", s.Xmin, s.Xmax)
	for i, xip := range s.Xip {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(xip, 10))
	}
	return b.String()
}

// check returns an error if a parsed snapshot breaks the rules of its type. Xid
// 0 is PostgreSQL's invalid xid, and no database has used 2^63 xids.
func (s Snapshot) check() error {
	if s.Xmin == 0 || s.Xmin > s.Xmax || s.Xmax >= 1<<63 {
		return fmt.Errorf("snapshot %d:%d: is out of order", s.Xmin, s.Xmax)
	}
	for i, xip := range s.Xip {
		if xip < s.Xmin || xip >= s.Xmax || (i > 0 && xip <= s.Xip[i-1]) {
			return fmt.Errorf("snapshot %d:%d: lists %d out of order", s.Xmin, s.Xmax, xip)
		}
	}
	return nil
}

// Visible reports whether the rows of transaction xid are in the set.
func (s Snapshot) Visible(xid uint64) bool {
	if xid >= s.Xmax {
		return false
	}
	_, open := slices.BinarySearch(s.Xip, xid)
	return !open
}

// Contains reports whether every transaction in o is also in s.
func (s Snapshot) Contains(o Snapshot) bool {
	if s.Xmax < o.Xmax {
		// No xid in [s.Xmax, o.Xmax) is in s, so none may be in o: o must list
		// all of them in Xip.
		missing := o.Xmax - s.Xmax
		i, _ := slices.BinarySearch(o.Xip, s.Xmax)
		if uint64(len(o.Xip[i:])) != missing {
			return false
		}
	}
	for _, xip := range s.Xip {
		if o.Visible(xip) {
			return false
		}
	}
	return true
}

// Nothing returns the empty set.
func Nothing() Snapshot { return Snapshot{Xmin: 1, Xmax: 1} }

// Through returns the part of the set up to and including the given xid.
func (s Snapshot) Through(xid uint64) Snapshot {
	if xid+1 >= s.Xmax {
		return s
	}
	end, _ := slices.BinarySearch(s.Xip, xid+1)
	part := Snapshot{Xmin: min(s.Xmin, xid+1), Xmax: xid + 1}
	if end > 0 {
		part.Xip = slices.Clone(s.Xip[:end])
	}
	return part
}

// Equal reports whether both are the same set.
func (s Snapshot) Equal(o Snapshot) bool {
	return s.Contains(o) && o.Contains(s)
}

// Union returns the transactions that are in s or in o.
func (s Snapshot) Union(o Snapshot) Snapshot {
	if s.Xmax < o.Xmax {
		s, o = o, s
	}
	// s has the greater Xmax, so only xids in s.Xip can be missing from it.
	u := Snapshot{Xmax: s.Xmax, Xmin: s.Xmax}
	for _, xip := range s.Xip {
		if !o.Visible(xip) {
			u.Xip = append(u.Xip, xip)
		}
	}
	if len(u.Xip) > 0 {
		u.Xmin = u.Xip[0]
	}
	return u
}

// Position is one row in reading order: by transaction, then by id.
type Position struct {
	Xid uint64
	ID  int64
}

// Moment is one row in time order: by `at`, in microseconds since 1970
// (PostgreSQL keeps no finer time), then by id.
type Moment struct {
	Micros int64
	ID     int64
}

// Cursor is the set of rows that a reader has seen. It has three forms:
//
//   - at rest: everything in From, which equals To;
//   - between two pages: everything in From and, of what To adds to it, every
//     row up to After;
//   - between two pages of a first read that began at a time: of To, every row
//     up to History in time order; From is the zero value.
//
// To stays the same from the first page to the last. Rows that commit meanwhile
// belong to the next target.
type Cursor struct {
	// Epoch names the table, database, cluster and timeline.
	Epoch uint64
	// LSN is a position in the write-ahead log. All that the cursor has seen,
	// and all of To, was committed and flushed before it. A standby that has
	// replayed less cannot answer yet.
	LSN     uint64
	From    Snapshot
	To      Snapshot
	After   Position
	History Moment
	// Last is a row that the reader received: the greatest one of From, or the
	// last one of the page. If the table no longer has it, and prune did not
	// remove it, an older state of the table was restored. The zero value names
	// no row.
	Last Moment
	// Top is, between two pages, the greatest row of From and To: an older state
	// may still have the last row of the page. The zero value names no row.
	Top Moment
}

// Outdated is what Parse returns for a token of an earlier version. No table
// has its Epoch, so a read reports that it has expired, and the reader starts
// again.
var Outdated = Cursor{From: Nothing(), To: Nothing()}

// Toward returns the cursor for reading on from c page by page, up to target
// and no further. Both must be at rest.
func (c Cursor) Toward(target Cursor) Cursor {
	return Cursor{Epoch: c.Epoch, LSN: max(c.LSN, target.LSN), From: c.From, To: target.From, After: Position{ID: -1}, Last: c.Last, Top: greatest(c, target)}
}

// greatest returns the greater of the rows that two cursors at rest name.
func greatest(c, o Cursor) Moment {
	last, other := Position{c.From.Xmax, c.Last.ID}, Position{o.From.Xmax, o.Last.ID}
	if last.before(other) {
		return o.Last
	}
	return c.Last
}

// Union returns the cursor of a reader that has seen the rows of both cursors.
// Both must be at rest and have the same Epoch.
func (c Cursor) Union(o Cursor) Cursor {
	c.Last = greatest(c, o)
	c.LSN = max(c.LSN, o.LSN)
	c.From = c.From.Union(o.From)
	c.To = c.From
	return c
}

func (p Position) before(o Position) bool {
	return p.Xid < o.Xid || p.Xid == o.Xid && p.ID < o.ID
}

// InHistory reports whether the cursor is between two pages in time order.
func (c Cursor) InHistory() bool { return c.From.Xmax == 0 && c.To.Xmax != 0 }

// Paging reports whether the cursor is between two pages of one target.
func (c Cursor) Paging() bool { return c.InHistory() || c.After != Position{} }

// IsZero reports whether the cursor names no position.
func (c Cursor) IsZero() bool { return c.To.Xmax == 0 }

// Equal reports whether all fields of both are equal.
func (c Cursor) Equal(o Cursor) bool {
	return c.Epoch == o.Epoch && c.LSN == o.LSN && c.After == o.After && c.History == o.History && c.Last == o.Last && c.Top == o.Top &&
		equal(c.From, o.From) && equal(c.To, o.To)
}

func equal(a, b Snapshot) bool {
	return a.Xmin == b.Xmin && a.Xmax == b.Xmax && slices.Equal(a.Xip, b.Xip)
}

// ErrInvalid is returned by Parse for a text that is not a cursor.
var ErrInvalid = errors.New("is not a cursor of Specwatch; use the one that the last answer gave, an RFC 3339 time, or none")

// The first byte of a token: its form. Version 0.2 used 1 to 3. Forms 5 and 6
// are the forms 7 and 8 without Top, which earlier versions did not have.
const (
	lastOutdated    = 3
	tokenAtRest     = 4
	tokenPaging     = 5
	tokenHistory    = 6
	tokenPagingTop  = 7
	tokenHistoryTop = 8
)

// Bounds of the times in a token: the years 1 to 9999.
const (
	minMicros = -62_135_596_800_000_000
	maxMicros = 253_402_300_799_999_999
)

// MaxToken bounds a token, in bytes, and so the open transactions that a cursor
// can list. Each takes a few bytes, so thousands fit.
const MaxToken = 64 << 10

// String returns the cursor as an opaque, URL-safe token.
func (c Cursor) String() string {
	form := byte(tokenAtRest)
	topped := c.Paging() && c.Top != Moment{}
	switch {
	case c.InHistory() && topped:
		form = tokenHistoryTop
	case c.InHistory():
		form = tokenHistory
	case topped:
		form = tokenPagingTop
	case c.Paging():
		form = tokenPaging
	}
	b := make([]byte, 0, 96)
	b = append(b, form)
	b = binary.BigEndian.AppendUint64(b, c.Epoch)
	b = binary.AppendUvarint(b, c.LSN)
	switch form {
	case tokenAtRest:
		b = appendSnapshot(b, c.From)
	case tokenPaging, tokenPagingTop:
		b = appendSnapshot(b, c.From)
		b = appendSnapshot(b, c.To)
		b = binary.AppendUvarint(b, c.After.Xid)
	case tokenHistory, tokenHistoryTop:
		b = appendSnapshot(b, c.To)
	}
	b = binary.AppendVarint(b, c.Last.Micros)
	b = binary.AppendVarint(b, c.Last.ID)
	if topped {
		b = binary.AppendVarint(b, c.Top.Micros)
		b = binary.AppendVarint(b, c.Top.ID)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// Parse reads a token. The error is ErrInvalid, whatever is wrong.
func Parse(token string) (Cursor, error) {
	if len(token) > MaxToken {
		return Cursor{}, ErrInvalid
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < 10 {
		return Cursor{}, ErrInvalid
	}
	if raw[0] >= 1 && raw[0] <= lastOutdated {
		return Outdated, nil
	}
	c := Cursor{Epoch: binary.BigEndian.Uint64(raw[1:9])}
	d := decoder{rest: raw[9:]}
	c.LSN = d.uvarint()
	moment := func() Moment { return Moment{Micros: d.varint(), ID: d.varint()} }
	switch raw[0] {
	case tokenAtRest:
		c.From = d.snapshot()
		c.To = c.From
		c.Last = moment()
	case tokenPaging, tokenPagingTop:
		c.From, c.To = d.snapshot(), d.snapshot()
		c.After.Xid = d.uvarint()
		c.Last = moment()
		c.After.ID = c.Last.ID
		d.bad = d.bad || c.After.Xid == 0 || c.After.Xid >= 1<<63
	case tokenHistory, tokenHistoryTop:
		c.To = d.snapshot()
		c.Last = moment()
		c.History = c.Last
	default:
		return Cursor{}, ErrInvalid
	}
	if raw[0] == tokenPagingTop || raw[0] == tokenHistoryTop {
		c.Top = moment()
	}
	d.bad = d.bad || c.LSN >= 1<<63 || !c.Last.valid() || !c.Top.valid()
	// Each cursor has exactly one token, so equal tokens are equal cursors.
	if d.bad || len(d.rest) > 0 || c.String() != token {
		return Cursor{}, ErrInvalid
	}
	return c, nil
}

// valid reports whether both PostgreSQL and JSON can represent the time.
func (m Moment) valid() bool { return m.Micros >= minMicros && m.Micros <= maxMicros }

func appendSnapshot(b []byte, s Snapshot) []byte {
	b = binary.AppendUvarint(b, s.Xmin)
	b = binary.AppendUvarint(b, s.Xmax-s.Xmin)
	b = binary.AppendUvarint(b, uint64(len(s.Xip)))
	last := s.Xmin
	for _, xip := range s.Xip {
		b = binary.AppendUvarint(b, xip-last)
		last = xip
	}
	return b
}

type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) snapshot() Snapshot {
	s := Snapshot{Xmin: d.uvarint()}
	s.Xmax = s.Xmin + d.uvarint()
	n := d.uvarint()
	if n > uint64(len(d.rest)) { // each takes a byte at least
		d.bad = true
		return Snapshot{}
	}
	last := s.Xmin
	for range n {
		last += d.uvarint()
		s.Xip = append(s.Xip, last)
	}
	if d.bad || s.check() != nil {
		d.bad = true
		return Snapshot{}
	}
	return s
}
