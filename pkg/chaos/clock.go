//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

const clockPatience = 10 * time.Second // the library looks once a second

// clock is the clock of a PostgreSQL server, by libfaketime
// (github.com/wolfcw/libfaketime): it runs as that of this machine until it jumps.
type clock struct {
	library string
	offset  string // a file
}

// newClock returns nil if libfaketime is not installed.
func (r *run) newClock(name string) (*clock, error) {
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
	if err != nil || len(found) == 0 {
		return nil, err
	}
	c := &clock{library: found[0], offset: filepath.Join(r.folder, name+".clock")}
	return c, c.set("+0")
}

func (c *clock) set(offset string) error {
	return os.WriteFile(c.offset, []byte(offset+"\n"), 0o644) // #nosec G306 -- PostgreSQL runs as another user
}

// env makes a server use this clock.
func (c *clock) env() []string {
	if c == nil {
		return nil
	}
	return []string{
		"LD_PRELOAD=" + c.library, "FAKETIME_TIMESTAMP_FILE=" + c.offset, "FAKETIME_CACHE_DURATION=1",
		"FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_RESET=1",
	}
}

// jumps is a fault: the clock of PostgreSQL is wrong for some seconds, by less than
// the age of the events that prune removes.
func (a *cluster) jumps(ctx context.Context, rng *rand.Rand, _ string) error {
	offsets := []time.Duration{20 * time.Minute, 90 * time.Second, 3 * time.Second, -3 * time.Second, -90 * time.Second, -20 * time.Minute}
	by := offsets[rng.IntN(len(offsets))]
	err := a.clock.set(fmt.Sprintf("%+d", int(by.Seconds())))
	if err == nil {
		err = a.jumped(ctx, by)
	}
	lasting(ctx, rng, brief, 2*time.Second)
	return errors.Join(err, a.clock.set("+0"))
}

// jumped waits until the clock of PostgreSQL is wrong. Other faults may keep it from
// answering.
func (a *cluster) jumped(ctx context.Context, by time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, clockPatience)
	defer cancel()
	differs, answered := time.Duration(0), false
	for {
		var now time.Time
		err := a.withConnection(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now)
		})
		if err == nil {
			differs, answered = time.Until(now), true
		}
		switch {
		case differs.Abs() > by.Abs()/2:
			return nil
		case ctx.Err() != nil && answered:
			return fmt.Errorf("the clock of PostgreSQL did not jump by %s; it differs by %s", by, differs)
		case ctx.Err() != nil:
			return nil
		}
		wait(ctx, brief)
	}
}
