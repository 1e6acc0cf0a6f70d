package store

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// What the server or the connection lacks is told as that, not as an error of
// the statement.
func TestExplain(t *testing.T) {
	t.Parallel()
	server := func(state string) error { return &pgconn.PgError{Code: state, Message: "what PostgreSQL says"} }
	for _, c := range []struct {
		name string
		err  error
		code string
	}{
		{"disk full", server("53100"), Full},
		{"out of memory", server("53200"), Full},
		{"too many connections", server("53300"), Busy},
		{"ended by an administrator", server("57P01"), NoConnection},
		{"crash", server("57P02"), NoConnection},
		{"starting up", server("57P03"), NoConnection},
		{"idle for too long", server("57P05"), NoConnection},
		{"connection failure", server("08006"), NoConnection},
		{"end of file in a message", fmt.Errorf("receive message: %w", io.ErrUnexpectedEOF), NoConnection},
		{"end of file", io.EOF, NoConnection},
		{"reset", syscall.ECONNRESET, NoConnection},
		{"closed meanwhile", errors.Join(errors.New("message cut off"), errClosed), NoConnection},
		{"a pool of ended connections", errors.New("pgxpool: too many failed attempts acquiring connection; likely bug in PrepareConn, BeforeAcquire, or ShouldPing hook"), NoConnection},
		{"another error", server("XX000"), DatabaseError},
	} {
		var told *Problem
		if err := explain(asUser{c.err, "somebody", defaultRoles}); !errors.As(err, &told) || told.Code != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
}

// What a missing right is named with depends on what it is missing on.
func TestRemedies(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"permission denied for table events":                                   "run as an administrator: GRANT specwatch_reader TO \"u\" to let it read, GRANT specwatch_writer TO \"u\" to let it write",
		"permission denied for schema watch":                                   "GRANT CREATE ON SCHEMA \"watch\" TO \"u\"",
		"permission denied for sequence events_id_seq":                         "GRANT specwatch_writer TO \"u\"",
		"permission denied for function specwatch_roll_up":                     "GRANT specwatch_writer TO \"u\"",
		"permission denied for function watch.specwatch_roll_up":               "GRANT specwatch_writer TO \"u\"",
		"permission denied for function specwatch_system_identifier":           "GRANT specwatch_reader TO \"u\"",
		"permission denied for function pg_walfile_name":                       "GRANT EXECUTE ON FUNCTION pg_catalog.pg_walfile_name TO \"u\"",
		"permission denied for database night":                                 "GRANT CREATE ON DATABASE \"night\" TO \"u\"",
		`permission denied to create temporary tables in database "the night"`: "GRANT TEMPORARY ON DATABASE \"the night\" TO \"u\"",
		"permission denied for table jobs":                                     "GRANT SELECT ON TABLE \"jobs\" TO \"u\"",
		"must be owner of table events":                                        "run this as the owner",
		"permission denied to do something else":                               "GRANT specwatch_reader TO \"u\"",
	} {
		if got := defaultRoles.remedy(message, "u"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", message, got)
		}
	}
}
