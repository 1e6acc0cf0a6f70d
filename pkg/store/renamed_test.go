package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/specwatch/specwatch/pkg/cursor"
)

// A schema may be renamed after PostgreSQL has planned a read of it: the name
// then leads to no table, and the reader is told so. No lock delays the rename,
// so the statements have a name that never leads to one.
func TestSchemaRenamedDuringARead(t *testing.T) {
	t.Parallel()
	s, _ := opened(t)
	page, err := s.SinceLast(t.Context(), 10, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []*string{&s.sinceSQL, &s.openSQL, &s.historySQL} {
		renamed := strings.ReplaceAll(*sql, s.SQL(`to_regclass('@.events')`), `to_regclass('nowhere.events')`)
		if renamed == *sql {
			t.Fatal("the statement does not look the table up by name")
		}
		*sql = renamed
	}
	for name, c := range map[string]cursor.Cursor{"history": {}, "since": page.Cursor} {
		var told *Problem
		if _, err := s.Since(t.Context(), c, 10); !errors.As(err, &told) || told.Code != NoTable {
			t.Errorf("%s: %v", name, err)
		}
	}
}
