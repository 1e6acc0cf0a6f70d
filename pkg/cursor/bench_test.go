package cursor

import (
	"fmt"
	"testing"
)

// wide is a cursor at rest whose snapshot lists so many open transactions.
func wide(open int) Cursor {
	s := Snapshot{Xmin: 1_000_000, Xmax: 1_000_001 + uint64(open)*3}
	for i := range open {
		s.Xip = append(s.Xip, s.Xmin+uint64(i)*3)
	}
	return Cursor{Epoch: 1 << 60, LSN: 1 << 40, From: s, To: s, Last: Moment{Micros: 1_700_000_000_000_000, ID: 1_000_000}}
}

func BenchmarkCursor(b *testing.B) {
	for _, open := range []int{0, 16, 1_000} {
		c := wide(open)
		token := c.String()
		later := c
		later.From.Xmax += 10
		b.Run(fmt.Sprintf("String/open=%d", open), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c.String() != token {
					b.Fatal("another token")
				}
			}
		})
		b.Run(fmt.Sprintf("Parse/open=%d", open), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(token); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("Contains/open=%d", open), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !later.From.Contains(c.From) {
					b.Fatal("it contains it")
				}
			}
		})
	}
}
