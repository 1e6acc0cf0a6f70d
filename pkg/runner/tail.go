package runner

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/specwatch/specwatch/pkg/redact"
)

// Bounds of the stored output.
const (
	tailBytes  = 8 << 10 // of the text that is stored with the end of a spec
	lineBytes  = 500     // of one line of it
	rowRunes   = 2_000   // of one row while it is written
	screenRows = 50      // rows that a command may move back to, besides those that are kept
	stringMost = 64 << 10
)

// tail keeps the last lines of output as a terminal would show them: without
// colours, with the last state of a progress bar, and without full screens that
// were closed.
type tail struct {
	n        int // lines to keep
	rows     [][]rune
	row, col int
	saved    [2]int
	returned bool // the cursor was sent to the start of the row: what comes replaces the row
	alt      bool // a full screen is open, which leaves nothing

	state   func(*tail, rune)
	params  []byte // of a control sequence
	skipped int    // runes of a control string
	partial []byte // of a character
}

func newTail(n int) *tail {
	return &tail{n: n, rows: make([][]rune, 1), state: (*tail).ground}
}

func (t *tail) write(text []byte) {
	if len(t.partial) > 0 {
		text = append(t.partial, text...)
		t.partial = nil
	}
	for len(text) > 0 {
		if !utf8.FullRune(text) {
			t.partial = slices.Clone(text)
			return
		}
		r, size := utf8.DecodeRune(text)
		text = text[size:]
		t.state(t, r)
	}
}

const escape = 0x1b

func (t *tail) ground(r rune) {
	switch r {
	case escape:
		t.state = (*tail).escaped
	case '\n', '\v', '\f':
		t.down(1)
		t.col = 0
	case '\r':
		t.col, t.returned = 0, true
	case '\b':
		t.to(t.row, t.col-1)
	case '\t':
		for ok := true; ok; ok = t.col%8 != 0 {
			t.put(' ')
		}
	case 0x9b:
		t.begin((*tail).sequence)
	case utf8.RuneError:
		// One replacement for any number of bytes of binary data.
		if row := t.rows[t.row]; t.col == 0 || t.col > len(row) || row[t.col-1] != utf8.RuneError {
			t.put(r)
		}
	default:
		if !unicode.IsControl(r) {
			t.put(r)
		}
	}
}

func (t *tail) begin(state func(*tail, rune)) {
	t.state, t.params, t.skipped = state, t.params[:0], 0
}

func (t *tail) escaped(r rune) {
	t.state = (*tail).ground
	switch r {
	case '[':
		t.begin((*tail).sequence)
	case ']', 'P', '_', '^', 'X':
		t.begin((*tail).label)
	case '(', ')', '*', '+', '#', '%', ' ':
		t.state = (*tail).skip
	case '7':
		t.saved = [2]int{t.row, t.col}
	case '8':
		t.to(t.saved[0], t.saved[1])
	case 'D', 'E':
		t.down(1)
	case 'M':
		t.to(t.row-1, t.col)
	case 'c':
		t.clear()
	case escape:
		t.state = (*tail).escaped
	}
}

func (t *tail) skip(rune) { t.state = (*tail).ground }

// label skips a control string, such as a title or a link.
func (t *tail) label(r rune) {
	t.skipped++
	switch {
	case r == '\a' || r == 0x9c || r == '\n' || t.skipped > stringMost:
		t.state = (*tail).ground
	case r == escape:
		t.state = (*tail).escaped // the string ends with it: ESC \
	}
}

// sequence reads a control sequence up to the letter that says what it does.
func (t *tail) sequence(r rune) {
	switch {
	case r == escape:
		t.state = (*tail).escaped
	case r >= 0x40 && r <= 0x7e:
		t.state = (*tail).ground
		t.control(r)
	case r >= 0x20 && r < 0x40 && len(t.params) < 64:
		t.params = append(t.params, byte(r))
	case r < 0x20:
		t.ground(r)
		if r != escape {
			t.state = (*tail).sequence
		}
	default:
		t.state = (*tail).ground
	}
}

// number returns the parameter with this index, or none where it is not given.
func (t *tail) number(index, none int) int {
	parts := strings.Split(string(t.params), ";")
	if index >= len(parts) || parts[index] == "" {
		return none
	}
	n := 0
	for _, digit := range parts[index] {
		if digit < '0' || digit > '9' || n > rowRunes {
			return none
		}
		n = n*10 + int(digit-'0')
	}
	return n
}

func (t *tail) control(letter rune) {
	if strings.HasPrefix(string(t.params), "?") {
		switch string(t.params) {
		case "?1049", "?1047", "?47":
			t.alt = letter == 'h'
		}
		return
	}
	n := max(1, t.number(0, 1))
	top := max(0, len(t.rows)-screenRows)
	switch letter {
	case 'A':
		t.to(t.row-n, t.col)
	case 'B':
		t.to(t.row+n, t.col)
	case 'C':
		t.to(t.row, t.col+n)
	case 'D':
		t.to(t.row, t.col-n)
	case 'E':
		t.to(t.row+n, 0)
	case 'F':
		t.to(t.row-n, 0)
	case 'G', '`':
		t.to(t.row, n-1)
	case 'd':
		t.to(top+n-1, t.col)
	case 'H', 'f':
		t.to(top+n-1, max(1, t.number(1, 1))-1)
	case 's':
		t.saved = [2]int{t.row, t.col}
	case 'u':
		t.to(t.saved[0], t.saved[1])
	case 'J':
		t.eraseScreen(top)
	case 'K':
		t.eraseRow()
	case 'X':
		t.erase(t.col, t.col+n)
	case 'P':
		if row := t.rows[t.row]; t.col < len(row) {
			t.rows[t.row] = slices.Delete(row, t.col, min(len(row), t.col+n))
		}
	}
}

// eraseScreen erases what is below the cursor, above it or both, by the parameter.
func (t *tail) eraseScreen(top int) {
	switch t.number(0, 0) {
	case 0:
		t.erase(t.col, rowRunes)
		t.rows = t.rows[:t.row+1]
	case 1:
		t.erase(0, t.col+1)
		for i := top; i < t.row; i++ {
			t.rows[i] = nil
		}
	default:
		t.clear()
	}
}

// eraseRow erases what is right of the cursor, left of it or both, by the parameter.
func (t *tail) eraseRow() {
	switch t.number(0, 0) {
	case 0:
		t.erase(t.col, rowRunes)
	case 1:
		t.erase(0, t.col+1)
	default:
		t.rows[t.row] = nil
	}
}

// to moves the cursor; below the last row there is nothing to move to.
func (t *tail) to(row, col int) {
	t.returned = false
	t.row = min(max(row, 0), len(t.rows)-1)
	t.col = min(max(col, 0), rowRunes)
}

func (t *tail) down(n int) {
	t.returned = false
	if t.alt {
		return
	}
	for range n {
		if t.row++; t.row == len(t.rows) {
			t.rows = append(t.rows, nil)
		}
	}
	if most := t.n + screenRows; len(t.rows) > 2*most {
		drop := len(t.rows) - most
		t.rows = slices.Clone(t.rows[drop:])
		t.row = max(0, t.row-drop)
	}
}

func (t *tail) put(r rune) {
	if t.alt {
		return
	}
	if t.returned {
		t.rows[t.row], t.returned = nil, false
	}
	if t.col >= rowRunes {
		return
	}
	row := t.rows[t.row]
	for len(row) <= t.col {
		row = append(row, ' ')
	}
	row[t.col] = r
	t.rows[t.row] = row
	t.col++
}

func (t *tail) erase(from, to int) {
	row := t.rows[t.row]
	if to >= len(row) {
		t.rows[t.row] = row[:min(from, len(row))]
		return
	}
	for i := from; i < to; i++ {
		row[i] = ' '
	}
}

// clear leaves what has scrolled off the screen.
func (t *tail) clear() {
	if t.alt {
		return
	}
	t.rows = append(t.rows[:max(0, len(t.rows)-screenRows)], nil)
	t.row, t.col, t.returned = len(t.rows)-1, 0, false
}

// text returns at most the last n lines, with secrets masked and repeated empty
// lines removed.
func (t *tail) text(n int) string {
	var lines []string
	for _, row := range t.rows {
		line := strings.TrimRightFunc(string(row), unicode.IsSpace)
		if line != "" || len(lines) > 0 && lines[len(lines)-1] != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	// A secret may begin before the first line that is kept.
	lines = strings.Split(redact.Text(strings.Join(lines, "\n")), "\n")
	lines = lines[max(0, len(lines)-n):]
	size := 0
	for i, line := range slices.Backward(lines) {
		lines[i] = clip(line, lineBytes)
		if size += len(lines[i]) + 1; size > tailBytes {
			lines = lines[i+1:]
			break
		}
	}
	return strings.Join(lines, "\n")
}

// clip shortens a text to some bytes, and says so.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
