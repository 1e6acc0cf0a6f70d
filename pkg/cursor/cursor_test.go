package cursor

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

// universe is how far the tests look: they compare snapshots with plain sets
// of the xids 1 to universe.
const universe = 24

func randomSnapshot(r *rand.Rand) Snapshot {
	xmax := 2 + r.Uint64N(universe-2)
	s := Snapshot{Xmin: xmax, Xmax: xmax}
	for xid := uint64(1); xid < xmax; xid++ {
		if r.IntN(4) == 0 {
			s.Xip = append(s.Xip, xid)
		}
	}
	if len(s.Xip) > 0 {
		s.Xmin = s.Xip[0]
	}
	return s
}

func at(epoch uint64, seen Snapshot) Cursor { return Cursor{Epoch: epoch, From: seen, To: seen} }

// A token of version 0.2 is not refused as invalid: its reader starts again.
func TestParseKnowsOutdatedTokens(t *testing.T) {
	for _, token := range []string{"AQAAAAAAAAAHBQQCAAI", "AgAAAAAAAAAHBQQCAAIFBAIAAg"} {
		if c, err := Parse(token); err != nil || !c.Equal(Outdated) {
			t.Errorf("%s: got %+v, %v", token, c, err)
		}
	}
}

func TestUnionOfCursors(t *testing.T) {
	older := Cursor{Epoch: 1, LSN: 50, From: Snapshot{Xmin: 3, Xmax: 6, Xip: []uint64{3}}, Last: Moment{10, 4}}
	newer := Cursor{Epoch: 1, LSN: 40, From: Snapshot{Xmin: 5, Xmax: 9, Xip: []uint64{5}}, Last: Moment{9, 7}}
	for _, got := range []Cursor{older.Union(newer), newer.Union(older)} {
		want := Cursor{Epoch: 1, LSN: 50, From: Snapshot{Xmin: 9, Xmax: 9}, To: Snapshot{Xmin: 9, Xmax: 9}, Last: Moment{9, 7}}
		if !got.Equal(want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestSnapshotsAreSets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		a, b := randomSnapshot(r), randomSnapshot(r)
		union, contains := a.Union(b), true
		if err := union.check(); err != nil {
			t.Fatalf("%s + %s = %s: %v", a, b, union, err)
		}
		for xid := uint64(1); xid <= universe; xid++ {
			if got, want := union.Visible(xid), a.Visible(xid) || b.Visible(xid); got != want {
				t.Fatalf("%d in %s + %s: %v, want %v", xid, a, b, got, want)
			}
			if b.Visible(xid) && !a.Visible(xid) {
				contains = false
			}
		}
		for xid := range uint64(universe) {
			part := a.Through(xid)
			if err := part.check(); err != nil {
				t.Fatalf("%s through %d: %v", a, xid, err)
			}
			for other := uint64(1); other <= universe; other++ {
				if got, want := part.Visible(other), other <= xid && a.Visible(other); got != want {
					t.Fatalf("%d in %s through %d: %v, want %v", other, a, xid, got, want)
				}
			}
		}
		if got := a.Contains(b); got != contains {
			t.Fatalf("%s contains %s: %v, want %v", a, b, got, contains)
		}
		if back, err := ParseSnapshot(a.String()); err != nil || !reflect.DeepEqual(back, a) {
			t.Fatalf("%s came back as %s (%v)", a, back, err)
		}
	}
}

func TestTokensComeBackWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5_000 {
		from := randomSnapshot(r)
		c := at(r.Uint64(), from)
		c.LSN, c.Last = r.Uint64()>>1, Moment{minMicros + r.Int64N(maxMicros-minMicros), r.Int64()}
		switch r.IntN(3) {
		case 0:
			c.From, c.History = Snapshot{}, c.Last
		case 1:
			c.To = from.Union(randomSnapshot(r))
			c.After = Position{Xid: 1 + r.Uint64N(universe), ID: c.Last.ID}
		}
		if c.Paging() && r.IntN(4) > 0 { // the tokens of earlier versions have none
			c.Top = Moment{minMicros + r.Int64N(maxMicros-minMicros), r.Int64()}
		}
		back, err := Parse(c.String())
		if err != nil || !reflect.DeepEqual(back, c) {
			t.Fatalf("%+v came back as %+v (%v)", c, back, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := at(7, Snapshot{Xmin: 5, Xmax: 9, Xip: []uint64{5, 7}}).String()
	for name, token := range map[string]string{
		"empty":          "",
		"words":          "not-a-cursor",
		"cut":            good[:len(good)-2],
		"longer":         good + "AA",
		"no base64":      good + "!",
		"other version":  "Z" + good[1:],
		"too long":       string(make([]byte, MaxToken+1)),
		"padding":        good + "==",
		"snapshot of 0s": at(7, Snapshot{}).String(),
	} {
		if c, err := Parse(token); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %+v, %v", name, c, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(at(7, Snapshot{Xmin: 5, Xmax: 9, Xip: []uint64{5, 7}}).String())
	f.Add(Cursor{Epoch: 1, LSN: 9, From: Snapshot{Xmin: 5, Xmax: 5}, To: Snapshot{Xmin: 9, Xmax: 9}, After: Position{6, 2}, Last: Moment{1, 2}}.String())
	f.Add(Cursor{Epoch: 1, LSN: 9, From: Snapshot{Xmin: 5, Xmax: 5}, To: Snapshot{Xmin: 9, Xmax: 9}, After: Position{6, 2}, Last: Moment{1, 2}, Top: Moment{3, 4}}.String())
	f.Add(Cursor{Epoch: 1, LSN: 9, To: Snapshot{Xmin: 9, Xmax: 9}, History: Moment{1, 2}, Last: Moment{1, 2}, Top: Moment{3, 4}}.String())
	f.Add("BA")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := Parse(token)
		if err != nil || c.Equal(Outdated) {
			return
		}
		if again := c.String(); again != token {
			t.Fatalf("%q was read as %q", token, again)
		}
	})
}

func FuzzParseSnapshot(f *testing.F) {
	f.Add("5:9:5,7")
	f.Add("::")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSnapshot(text)
		if err != nil {
			return
		}
		if back, err := ParseSnapshot(s.String()); err != nil || !s.Equal(back) {
			t.Fatalf("%q became %s (%v)", text, back, err)
		}
	})
}
