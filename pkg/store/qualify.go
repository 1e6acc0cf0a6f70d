package store

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// qualify writes the schema in place of each "@." of the SQL, which has one
// before each table of Specwatch. Without a schema search_path finds the
// tables. Setting search_path would not do: a pooler may refuse that, and may
// give the next transaction a connection with another.
func qualify(schema, sql string) string {
	prefix := ""
	if schema != "" {
		prefix = pgx.Identifier{schema}.Sanitize() + "."
	}
	return strings.ReplaceAll(sql, "@.", prefix)
}

func (s *Store) sql(text string) string { return qualify(s.schema, text) }
