package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specwatch/specwatch/pkg/event"
)

// BatchError says which event of several was refused.
type BatchError struct {
	Index int64 // counted from 0
	Err   error // a *event.FieldError
}

func (e *BatchError) Error() string { return fmt.Sprintf("event %d: %s", e.Index+1, e.Err) }
func (e *BatchError) Unwrap() error { return e.Err }

// Bounds of a chunk, the part of a bulk write that one INSERT carries.
const (
	ChunkEvents = 5_000
	ChunkBytes  = 8 << 20
)

// insertSQL uses unnest, so that the text is the same for any number of events
// and is prepared once. The order gives ids in the order of the input. $7 limits
// each wait for a lock of this statement; it needs no statement of its own.
const insertSQL = `
INSERT INTO @.events (kind, at, session, spec, data, key)
SELECT kind, coalesce(at, now()), session, spec, data::jsonb, key
FROM (SELECT set_config('lock_timeout', $7, true)) AS l,
     unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY AS e (kind, at, session, spec, data, key, n)
ORDER BY n
ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING
RETURNING id, key`

// writeTimeout bounds one Append, which may wait for locks of other
// transactions.
const writeTimeout = 10 * time.Second

// A write that has to wait for another transaction does not keep its
// connection: the attempt ends after lockWait. Then all such writes take turns,
// one at a time: a turn is a pause without a connection and one more attempt.
// So the writes that can be done find connections. Each attempt that ends
// without the lock is one error in the server's log.
const (
	lockWait  = 50 * time.Millisecond
	turnPause = 100 * time.Millisecond
)

// Writing runs f on a connection of the pool that writes. After a lost
// connection it is run again only if nothing of it can have been written. Errors
// are explained.
func Writing[T any](ctx context.Context, s *Store, f func(*pgx.Conn) (T, error)) (T, error) {
	return using(ctx, s, s.writes, pgconn.SafeToRetry, f)
}

// Begin starts a transaction on a connection of the pool that writes. Its errors
// are those of PostgreSQL: Explain explains them.
func (s *Store) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := s.writes.Begin(ctx)
	if errors.Is(err, errPooler) {
		tx, err = s.writes.Begin(ctx) // the next connection is made for a pooler
	}
	return tx, err
}

// InTransaction runs f in a transaction of the pool that writes. Errors are
// explained.
func (s *Store) InTransaction(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := s.Begin(ctx)
	if err != nil {
		return s.Explain(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after a commit it does nothing
	if err := f(tx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.Explain(err)
	}
	return s.Explain(tx.Commit(ctx))
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Append writes the events, all or none. An event whose key is already stored
// is not written again; its id is that of the stored one. An event that is
// refused is returned as *BatchError (or as a bare *event.FieldError if it is
// the only one), an error of the set-up or of the server as *Problem. Append
// takes at most writeTimeout, 10 s: another transaction may hold one of the
// keys.
func (s *Store) Append(ctx context.Context, events []event.Event) (event.Receipt, error) {
	if len(events) == 0 {
		return event.Receipt{IDs: []int64{}}, nil
	}
	now := time.Now()
	for i := range events {
		if err := events[i].Validate(now); err != nil {
			return event.Receipt{}, inBatch(int64(i), len(events), err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	insert := func() (event.Receipt, error) {
		return retry(ctx, func() (event.Receipt, error) {
			return Writing(ctx, s, func(conn *pgx.Conn) (event.Receipt, error) { return s.insert(ctx, conn, lockWait, events) })
		})
	}
	receipt, err := insert()
	for failed(err, "55P03") { // lock_timeout
		if s.turns.Acquire(ctx, 1) == nil {
			select {
			case <-ctx.Done():
			case <-time.After(turnPause):
				receipt, err = insert()
			}
			s.turns.Release(1)
		}
		if ctx.Err() != nil && err != nil {
			return event.Receipt{}, ended(ctx, err)
		}
	}
	if isFieldError(err) && len(events) > 1 {
		err = s.blame(ctx, events, err)
	}
	return receipt, err
}

// AppendAll writes what next returns until it returns io.EOF, in one
// transaction: all or none. It holds one chunk in memory, and waits at most
// writeTimeout for a lock of another transaction. It returns how many events it
// took, and how many of these were stored before, under the same key.
func (s *Store) AppendAll(ctx context.Context, next func() (event.Event, error)) (taken, known int64, err error) {
	tx, err := s.Begin(ctx)
	if err != nil {
		return 0, 0, s.Explain(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after a commit it does nothing
	for done := false; !done; {
		var chunk []event.Event
		for size := 0; len(chunk) < ChunkEvents && size < ChunkBytes; {
			e, err := next()
			if errors.Is(err, io.EOF) {
				done = true
				break
			}
			if err != nil {
				return 0, 0, err
			}
			if err := e.Validate(time.Now()); err != nil {
				return 0, 0, &BatchError{taken + int64(len(chunk)), err}
			}
			chunk = append(chunk, e)
			size += len(e.Data) + len(e.Session) + len(e.Spec) + len(e.Key)
		}
		if len(chunk) == 0 {
			break
		}
		receipt, err := s.insert(ctx, tx, writeTimeout, chunk)
		if err != nil {
			if isFieldError(err) {
				err = s.blame(ctx, chunk, err)
				var batch *BatchError
				if errors.As(err, &batch) {
					batch.Index += taken
				} else {
					err = &BatchError{taken, err} // the only one of its chunk
				}
			}
			return 0, 0, err
		}
		taken += int64(len(chunk))
		known += int64(receipt.Known)
	}
	return taken, known, s.Explain(tx.Commit(ctx))
}

func isFieldError(err error) bool {
	var field *event.FieldError
	return errors.As(err, &field)
}

func inBatch(index int64, size int, err error) error {
	if size == 1 {
		return err
	}
	return &BatchError{index, err}
}

// retry repeats an attempt that failed because of another transaction: two
// batches may insert the same keys in opposite orders and deadlock. Nothing of
// a failed attempt is stored.
func retry[T any](ctx context.Context, attempt func() (T, error)) (T, error) {
	return backoff.Retry(ctx, func() (T, error) {
		result, err := attempt()
		if err != nil && !conflicted(err) {
			return result, backoff.Permanent(err)
		}
		return result, err
	}, backoff.WithMaxTries(10))
}

// ended is the error of a write whose ctx has ended while it waited for a lock.
func ended(ctx context.Context, locked error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return NewProblem(Busy, locked, "another transaction holds a lock that this write needs, such as that of an event with the same key; end that transaction, or ask again")
	}
	return explain(ctx.Err())
}

// conflicted reports whether a transaction failed because of another: by a
// deadlock or because the two could not be serialized.
func conflicted(err error) bool { return failed(err, "40P01", "40001") }

// failed reports whether PostgreSQL answered with one of these codes.
func failed(err error, codes ...string) bool {
	var known *Problem
	var pg *pgconn.PgError
	return errors.As(err, &known) && errors.As(known.cause, &pg) && slices.Contains(codes, pg.Code)
}

// columns are the events as insertSQL takes them.
type columns struct {
	kinds, sessions, specs, data []string
	times                        []*time.Time
	keys                         []*string
}

func columnsOf(events []event.Event) columns {
	n := len(events)
	c := columns{
		kinds: make([]string, n), sessions: make([]string, n), specs: make([]string, n), data: make([]string, n),
		times: make([]*time.Time, n), keys: make([]*string, n),
	}
	for i := range events {
		e := &events[i]
		c.kinds[i], c.sessions[i], c.specs[i], c.data[i] = string(e.Kind), e.Session, e.Spec, "{}"
		if len(e.Data) > 0 {
			c.data[i] = string(e.Data)
		}
		if !e.At.IsZero() {
			c.times[i] = &e.At
		}
		if e.Key != "" {
			c.keys[i] = &e.Key
		}
	}
	return c
}

// written is what PostgreSQL answers about a stored event.
type written struct {
	ID  int64
	Key *string
}

// insert writes the events in one statement that waits at most patience for
// each lock.
func (s *Store) insert(ctx context.Context, q querier, patience time.Duration, events []event.Event) (event.Receipt, error) {
	c := columnsOf(events)
	rows, err := q.Query(ctx, s.SQL(insertSQL), c.kinds, c.times, c.sessions, c.specs, c.data, c.keys, fmt.Sprintf("%dms", patience.Milliseconds()))
	if err != nil {
		return event.Receipt{}, s.Explain(err)
	}
	inserted, err := pgx.CollectRows(rows, pgx.RowToStructByPos[written])
	if err != nil {
		return event.Receipt{}, s.Explain(err)
	}
	ids, known, err := match(c.keys, inserted)
	if err != nil {
		return event.Receipt{}, err
	}
	if len(known) > 0 {
		if err := s.fill(ctx, q, ids, c.keys, known); err != nil {
			return event.Receipt{}, afterWrite{s.Explain(err)}
		}
	}
	return event.Receipt{IDs: ids, Known: len(known)}, nil
}

// match gives the events the ids of inserted, which has the new rows in the
// order of the input. A key that it lacks was stored before: it is one of known,
// and its id is 0.
func match(keys []*string, inserted []written) (ids []int64, known []string, err error) {
	ids = make([]int64, len(keys))
	next := 0
	for i, key := range keys {
		if next < len(inserted) && same(key, inserted[next].Key) {
			ids[i] = inserted[next].ID
			next++
			continue
		}
		if key == nil {
			return nil, nil, fmt.Errorf("event %d was not written and has no key: a trigger or rule on the table removed it", i+1)
		}
		known = append(known, *key)
	}
	return ids, known, nil
}

// fill reads the ids of the known keys and replaces each id of 0.
func (s *Store) fill(ctx context.Context, q querier, ids []int64, keys []*string, known []string) error {
	rows, err := q.Query(ctx, s.SQL(`SELECT id, key FROM @.events WHERE key = ANY($1)`), known)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[written])
	if err != nil {
		return err
	}
	stored := map[string]int64{}
	for _, r := range found {
		stored[*r.Key] = r.ID
	}
	for i, key := range keys {
		if ids[i] == 0 && key != nil {
			ids[i] = stored[*key]
		}
	}
	return nil
}

// afterWrite is an error after rows may have been written: running all of it
// again would write events without a key twice.
type afterWrite struct{ error }

func (e afterWrite) Unwrap() error     { return e.error }
func (e afterWrite) SafeToRetry() bool { return false } // for pgconn.SafeToRetry

func same(a, b *string) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// blame finds the event that PostgreSQL refuses, by binary search: it is the
// last one of the shortest prefix of the batch that is refused. Each attempt is
// rolled back.
func (s *Store) blame(ctx context.Context, events []event.Event, refusal error) error {
	var outage error
	index := sort.Search(len(events), func(last int) bool {
		if outage != nil {
			return true
		}
		tx, err := s.Begin(ctx)
		if err != nil {
			outage = s.Explain(err)
			return true
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing of it is meant to stay
		_, err = s.insert(ctx, tx, writeTimeout, events[:last+1])
		if isFieldError(err) {
			refusal = err
			return true
		}
		return false
	})
	if outage != nil || index == len(events) {
		return refusal
	}
	return inBatch(int64(index), len(events), refusal)
}
