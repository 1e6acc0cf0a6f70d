package store_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// A schema may be renamed after PostgreSQL has planned a read of it: the name
// then leads to no table, and the reader is told so. No lock delays the rename,
// so the statements have a name that never leads to one.
func TestSchemaRenamedDuringARead(t *testing.T) {
	t.Parallel()
	s, _, _ := storetest.New(t)
	page, err := s.SinceLast(t.Context(), 10, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range s.Statements() {
		renamed := strings.ReplaceAll(*sql, s.SQL(`to_regclass('@.events')`), `to_regclass('nowhere.events')`)
		if renamed == *sql {
			t.Fatal("the statement does not look the table up by name")
		}
		*sql = renamed
	}
	for name, c := range map[string]cursor.Cursor{"history": {}, "since": page.Cursor} {
		var told *store.Problem
		if _, err := s.Since(t.Context(), c, 10); !errors.As(err, &told) || told.Code != store.NoTable {
			t.Errorf("%s: %v", name, err)
		}
	}
}
