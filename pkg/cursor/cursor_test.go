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
		c := At(r.Uint64(), from)
		switch r.IntN(3) {
		case 0:
			c = Cursor{Epoch: c.Epoch, To: from, History: Moment{r.Int64() - 1<<62, r.Int64()}}
		case 1:
			c.To = from.Union(randomSnapshot(r))
			c.After = Position{Xid: 1 + r.Uint64N(universe), ID: r.Int64N(1000)}
		}
		back, err := Parse(c.String())
		if err != nil || !reflect.DeepEqual(back, c) {
			t.Fatalf("%+v came back as %+v (%v)", c, back, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := At(7, Snapshot{Xmin: 5, Xmax: 9, Xip: []uint64{5, 7}}).String()
	for name, token := range map[string]string{
		"empty":          "",
		"words":          "not-a-cursor",
		"cut":            good[:len(good)-2],
		"longer":         good + "AA",
		"no base64":      good + "!",
		"other version":  "B" + good[1:],
		"too long":       string(make([]byte, MaxToken+1)),
		"padding":        good + "==",
		"snapshot of 0s": At(7, Snapshot{}).String(),
	} {
		if c, err := Parse(token); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %+v, %v", name, c, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(At(7, Snapshot{Xmin: 5, Xmax: 9, Xip: []uint64{5, 7}}).String())
	f.Add(Cursor{Epoch: 1, From: Snapshot{Xmin: 5, Xmax: 5}, To: Snapshot{Xmin: 9, Xmax: 9}, After: Position{6, 2}}.String())
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := Parse(token)
		if err != nil {
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
