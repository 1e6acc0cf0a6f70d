package runner

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTail(t *testing.T) {
	for text, want := range map[string]string{
		"a\nb\n":           "a\nb",
		"one\rtwo\n":       "two",
		" 10%\r 50%\r100%": "100%",
		"long line\rx\n":   "x",
		"\x1b[1;31mred\x1b[0m \x1b]0;title\x07on":  "red on",
		"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\": "link",
		"a\r\nb\r\n": "a\nb",
		"kept\n\x1b[?1049hscreen\nfull\x1b[?1049l": "kept",
		"1\n2\n\x1b[2A\x1b[2Knew 1\n\x1b[2Knew 2":  "new 1\nnew 2",
		"ab\bc":                   "ac",
		"x\x00\x01y\xff\xfe\xffz": "xy\ufffdz",
		"a\n\n\n\nb":              "a\n\nb",
		"\x1b[2J\x1b[Hshown":      "shown",
		"":                        "",
	} {
		// However it is cut.
		for _, size := range []int{1, 3, len(text) + 1} {
			tail := newTail(20)
			for rest := []byte(text); len(rest) > 0; {
				n := min(size, len(rest))
				tail.write(rest[:n])
				rest = rest[n:]
			}
			if got := tail.text(20); got != want {
				t.Errorf("%q by %d: %q, expected %q", text, size, got, want)
			}
		}
	}
}

func FuzzTail(f *testing.F) {
	f.Add([]byte("a\x1b[5;9Hb\x1b[2J\x1b[1A\rc\x1b[3P\x1b[X\x1b8"))
	f.Fuzz(func(t *testing.T, text []byte) {
		tail := newTail(5)
		tail.write([]byte(strings.Repeat("line\n", 200)))
		tail.write(text)
		if got := tail.text(5); len(got) > tailBytes+lineBytes || !utf8.ValidString(got) || strings.Count(got, "\n") > 4 || strings.ContainsRune(got, 0x1b) {
			t.Errorf("%q", got)
		}
		if len(tail.rows) > 3*(5+screenRows) {
			t.Errorf("%d rows", len(tail.rows))
		}
	})
}
