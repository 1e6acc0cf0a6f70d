// Package cursor holds the position of a reader: not a number in a sequence,
// but a PostgreSQL snapshot, the exact set of transactions whose rows the
// reader has seen.
//
// Sequence numbers and clocks are taken before a transaction commits, so a
// reader that remembers the highest one loses every row that commits late. A
// snapshot (pg_current_snapshot(), PostgreSQL 13) names the transactions that
// were still open, and a row is new exactly if its transaction is not in the
// snapshot. The technique is PostgreSQL's own visibility rule, kept in the
// reader's hand instead of in a backend.
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

// Snapshot is a set of transactions, written as PostgreSQL writes one: every
// xid below Xmax is in the set, except those in Xip; none from Xmax on is.
// Xmin is the lowest xid that is not in the set.
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

// check holds a snapshot that came from outside to the rules of its type.
// Zero is the invalid xid, and no database has used up 63 bits of them.
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

// Contains reports whether everything in o is in s too.
func (s Snapshot) Contains(o Snapshot) bool {
	if s.Xmax < o.Xmax {
		// s says nothing about [s.Xmax, o.Xmax): o must list all of it as open.
		missing := o.Xmax - s.Xmax
		i, _ := slices.BinarySearch(o.Xip, s.Xmax)
		if uint64(len(o.Xip)-i) != missing {
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

// Equal reports whether both are the same set.
func (s Snapshot) Equal(o Snapshot) bool {
	return s.Contains(o) && o.Contains(s)
}

// Union is the set of what is in either.
func (s Snapshot) Union(o Snapshot) Snapshot {
	if s.Xmax < o.Xmax {
		s, o = o, s
	}
	// s reaches further, so only what s holds open can be missing.
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

// Cursor says "I have seen everything in From and, of what To adds to it,
// every row up to After". When no page is being turned, To equals From and
// After is zero. To stays fixed while pages are turned, so that rows which
// commit meanwhile cannot slip in behind the reader.
type Cursor struct {
	Epoch uint64 // which database, and which history of it
	From  Snapshot
	To    Snapshot
	After Position
}

// At returns the cursor of a reader that has seen exactly the snapshot.
func At(epoch uint64, seen Snapshot) Cursor {
	return Cursor{Epoch: epoch, From: seen, To: seen}
}

// Paging reports whether the cursor stands between two pages of one target.
func (c Cursor) Paging() bool { return c.After != Position{} }

// IsZero reports whether the cursor is no position at all.
func (c Cursor) IsZero() bool { return c.From.Xmax == 0 }

// Seen reports whether the row at the position has been delivered.
func (c Cursor) Seen(p Position) bool {
	if c.From.Visible(p.Xid) {
		return true
	}
	if !c.Paging() || !c.To.Visible(p.Xid) {
		return false
	}
	return p.Xid < c.After.Xid || p.Xid == c.After.Xid && p.ID <= c.After.ID
}

// ErrInvalid is what Parse answers to a text that is no cursor.
var ErrInvalid = errors.New("is not a cursor of Specwatch; use the one that the last answer gave, an RFC 3339 time, or none")

const (
	tokenVersion = 1
	// MaxToken bounds the text, and by it the open transactions that a cursor
	// can list: thousands at the few bytes that each takes.
	MaxToken = 64 << 10
)

// String is the opaque, URL-safe token.
func (c Cursor) String() string {
	b := make([]byte, 0, 64)
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint64(b, c.Epoch)
	b = appendSnapshot(b, c.From)
	if c.Paging() {
		b = appendSnapshot(b, c.To)
		b = binary.AppendUvarint(b, c.After.Xid)
		b = binary.AppendVarint(b, c.After.ID)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// Parse reads a token. The error is ErrInvalid, whatever is wrong.
func Parse(token string) (Cursor, error) {
	if len(token) > MaxToken {
		return Cursor{}, ErrInvalid
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < 9 || raw[0] != tokenVersion {
		return Cursor{}, ErrInvalid
	}
	d := decoder{rest: raw[9:]}
	c := Cursor{Epoch: binary.BigEndian.Uint64(raw[1:9]), From: d.snapshot()}
	c.To = c.From
	if !d.bad && len(d.rest) > 0 {
		c.To = d.snapshot()
		c.After = Position{Xid: d.uvarint(), ID: d.varint()}
		if !c.Paging() || !c.To.Contains(c.From) {
			return Cursor{}, ErrInvalid
		}
	}
	// One cursor has one text: comparing texts compares cursors.
	if d.bad || len(d.rest) > 0 || c.String() != token {
		return Cursor{}, ErrInvalid
	}
	return c, nil
}

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
