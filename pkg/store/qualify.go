package store

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// Qualify replaces each "@." in the SQL, which stands before each name of
// Specwatch's, with the schema. Without a schema, search_path finds the tables.
// Setting search_path instead would not work: a pooler may refuse it, and may
// give the next transaction a connection with another one.
func Qualify(schema, sql string) string {
	prefix := ""
	if schema != "" {
		prefix = pgx.Identifier{schema}.Sanitize() + "."
	}
	return strings.ReplaceAll(sql, "@.", prefix)
}

// SQL is Qualify with the schema of the store.
func (s *Store) SQL(text string) string { return Qualify(s.schema, text) }
