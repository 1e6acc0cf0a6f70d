package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// MigrationLock is the key of the advisory lock that whoever migrates or changes
// a mirror holds, one at a time in a database.
const MigrationLock int64 = 0x5350454357 // "SPECW"

// LockTimeout is how long a step that changes a table waits for its lock,
// during which programs that write into the table wait behind it, and
// lockAttempts how often it is tried.
const (
	LockTimeout  = 200 * time.Millisecond
	lockAttempts = 150
)

// LockShortlySQL makes the statements of its transaction wait for a lock only for
// LockTimeout.
var LockShortlySQL = fmt.Sprintf("SET LOCAL lock_timeout = '%dms'", LockTimeout.Milliseconds())

// UntilLocked runs attempt again, at most lockAttempts times, if it did not get
// its lock. Writers wait behind a statement that waits for a lock, so each
// attempt waits only for LockTimeout.
func UntilLocked(ctx context.Context, told func(string), attempt func() error) error {
	for try := 1; ; try++ {
		err := attempt()
		var pg *pgconn.PgError
		if !errors.Is(err, ErrLocked) && (!errors.As(err, &pg) || pg.Code != "55P03") || try == lockAttempts {
			return err
		}
		if try == 5 && told != nil {
			told("waiting for a migration or for transactions that use the table to end; programs go on writing meanwhile")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(LockTimeout):
		}
	}
}

// ErrLocked is the error of an attempt while another process holds the
// migration lock.
var ErrLocked = NewProblem(Busy, nil, "another migration runs; ask again once it has ended")
