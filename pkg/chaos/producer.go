//go:build linux

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// acknowledged is an event that was confirmed to its producer.
type acknowledged struct {
	mark mark
	id   int64 // 0: not told
}

// writing is what the producers of one scenario share.
type writing struct {
	run  *run
	name string
	url  func() string // of the primary

	// undisturbed is held by those who keep transactions open for long; who
	// needs the whole table for a moment waits for them, as an operator would.
	undisturbed sync.RWMutex

	mu    sync.Mutex
	acks  []acknowledged
	kinds map[string]int // what was done, of each kind
}

func newWriting(r *run, name string, url func() string) *writing {
	return &writing{run: r, name: name, url: url, kinds: map[string]int{}}
}

func (w *writing) did(kind string, acks ...acknowledged) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kinds[kind]++
	w.acks = append(w.acks, acks...)
	w.run.told.Add(int64(len(acks)))
}

// producer writes streams of events, one after the other.
type producer struct {
	*writing
	name   string
	rng    *rand.Rand
	stream string
	n      int64
}

func (w *writing) producer(name string) *producer {
	p := &producer{writing: w, name: name, rng: w.run.random(w.name + name)}
	p.another()
	return p
}

// another begins a new stream: it is not known whether the last event of the old
// one is or will be stored.
func (p *producer) another() {
	p.stream, p.n = fmt.Sprintf("%s.%s.%d", p.writing.name, p.name, p.run.streams.Add(1)), 0
}

func (p *producer) next() mark {
	p.n++
	return mark{p.stream, p.n}
}

var kinds = []string{"spec_started", "session_heartbeat", "spec_completed", "session_heartbeat", "spec_failed", "session_heartbeat", "timeout_triggered"}

const insertSQL = `INSERT INTO events (kind, session, spec, data) VALUES ($1, $2, $3, jsonb_build_object('s', $4::text, 'n', $5::bigint)) RETURNING id`

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (p *producer) insert(ctx context.Context, q querier) (acknowledged, error) {
	a := acknowledged{mark: p.next()}
	err := q.QueryRow(ctx, insertSQL, kinds[p.rng.IntN(len(kinds))], p.name, fmt.Sprint("spec ", a.mark.N%5), a.mark.Stream, a.mark.N).Scan(&a.id)
	return a, err
}

// Events keep pace with the faults: on a slow machine the table would grow
// until each fault takes minutes.
const (
	eventsAtFirst  = 5_000
	eventsPerFault = 50
)

// rest waits, and goes on waiting while there are more events than faults ask for.
func (p *producer) rest(ctx context.Context, pause time.Duration) {
	wait(ctx, pause)
	for ctx.Err() == nil && p.run.told.Load() > eventsAtFirst+eventsPerFault*int64(p.run.faults.total()) {
		wait(ctx, 50*time.Millisecond)
	}
}

// job is a piece of work that a producer repeats.
type job func(p *producer, ctx context.Context, conn *pgx.Conn) error

// sql repeats a piece of work on a connection that is made anew whenever it fails.
func (p *producer) sql(ctx context.Context, pause time.Duration, work job) {
	for ctx.Err() == nil {
		conn, err := connect(ctx, p.url())
		for err == nil && ctx.Err() == nil {
			once, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			err = work(p, once, conn)
			cancel()
			if err == nil {
				p.rest(ctx, pause/2+time.Duration(p.rng.Int64N(int64(pause))))
			}
		}
		if err != nil {
			p.another()
			wait(ctx, 50*time.Millisecond)
		}
		if conn != nil {
			closing, cancel := context.WithTimeout(context.Background(), time.Second)
			conn.Close(closing)
			cancel()
		}
	}
}

func connect(ctx context.Context, database string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return pgx.Connect(ctx, database)
}

func (p *producer) single(ctx context.Context, conn *pgx.Conn) error {
	a, err := p.insert(ctx, conn)
	if err == nil {
		p.did("single inserts", a)
	}
	return err
}

// several writes some rows in one transaction and rolls a part back.
func (p *producer) several(ctx context.Context, conn *pgx.Conn) error {
	var acks []acknowledged
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for range 1 + p.rng.IntN(12) {
			a, err := p.insert(ctx, tx)
			if err != nil {
				return err
			}
			acks = append(acks, a)
		}
		if p.rng.IntN(2) == 0 {
			inner, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			a, err := p.insert(ctx, inner)
			if err != nil {
				return err
			}
			if p.rng.IntN(2) == 0 {
				return inner.Rollback(ctx)
			}
			acks = append(acks, a)
			return inner.Commit(ctx)
		}
		return nil
	})
	if err == nil {
		p.did("transactions of several rows, with savepoints", acks...)
	}
	return err
}

// undone writes rows that are rolled back, or refused as duplicates.
func (p *producer) undone(ctx context.Context, conn *pgx.Conn) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // as intended
	for range 1 + p.rng.IntN(3) {
		if _, err := p.insert(ctx, tx); err != nil {
			return err
		}
	}
	if p.rng.IntN(2) == 0 {
		if err := tx.Rollback(ctx); err != nil {
			return err
		}
		p.did("rolled back transactions")
		return nil
	}
	m := p.next()
	_, err = tx.Exec(ctx, `INSERT INTO events (kind, session, key, data) VALUES ('session_heartbeat', 'twice', 'twice', jsonb_build_object('s', $1::text, 'n', $2::bigint)), ('session_heartbeat', 'twice', 'twice', '{}')`, m.Stream, m.N)
	if err == nil {
		return fmt.Errorf("a duplicate key was stored")
	}
	if conn.IsClosed() {
		return err
	}
	p.did("refused duplicate keys")
	return nil
}

// async commits without waiting for the log: a crash may undo such a commit.
func (p *producer) async(ctx context.Context, conn *pgx.Conn) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit it does nothing
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
		return err
	}
	if _, err := p.insert(ctx, tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	p.did("commits with synchronous_commit off")
	return nil
}

// late keeps a transaction open while others commit.
func (p *producer) late(ctx context.Context, conn *pgx.Conn) error {
	return p.open(ctx, conn, time.Duration(p.rng.Int64N(int64(1500*time.Millisecond))))
}

func (p *producer) open(ctx context.Context, conn *pgx.Conn, open time.Duration) error {
	p.undisturbed.RLock()
	defer p.undisturbed.RUnlock()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit it does nothing
	var acks []acknowledged
	for range 1 + p.rng.IntN(4) {
		a, err := p.insert(ctx, tx)
		if err != nil {
			return err
		}
		acks = append(acks, a)
		wait(ctx, open/4)
	}
	if p.rng.IntN(4) == 0 {
		if err := tx.Rollback(ctx); err != nil {
			return err
		}
		p.did("rolled back late")
		return nil
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	p.did("late commits", acks...)
	return nil
}

// twoPhase prepares a transaction and ends it later.
func (p *producer) twoPhase(ctx context.Context, conn *pgx.Conn) error {
	p.undisturbed.RLock()
	defer p.undisturbed.RUnlock()
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	var acks []acknowledged
	for range 1 + p.rng.IntN(3) {
		a, err := p.insert(ctx, conn)
		if err != nil {
			return err
		}
		acks = append(acks, a)
	}
	name := fmt.Sprintf("%s/%d", p.stream, p.n)
	if _, err := conn.Exec(ctx, fmt.Sprintf("PREPARE TRANSACTION '%s'", name)); err != nil {
		if !conn.IsClosed() {
			p.did("refused to prepare: " + err.Error())
			return nil
		}
		return err
	}
	wait(ctx, time.Duration(p.rng.Int64N(int64(700*time.Millisecond))))
	end, kind := "COMMIT", "prepared and committed"
	if p.rng.IntN(4) == 0 {
		end, kind, acks = "ROLLBACK", "prepared and rolled back", nil
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("%s PREPARED '%s'", end, name)); err != nil {
		return err
	}
	p.did(kind, acks...)
	return nil
}

// finishPrepared commits what crashes left prepared.
func finishPrepared(ctx context.Context, database string) error {
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := conn.Exec(ctx, fmt.Sprintf("COMMIT PREPARED '%s'", name)); err != nil {
			return err
		}
	}
	return nil
}

// bulk copies many rows at once.
func (p *producer) bulk(ctx context.Context, conn *pgx.Conn) error {
	var acks []acknowledged
	n := 20 + p.rng.IntN(150)
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"events"}, []string{"kind", "session", "spec", "data"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		m := p.next()
		acks = append(acks, acknowledged{mark: m})
		return []any{kinds[i%len(kinds)], p.name, "bulk", m}, nil
	}))
	if err == nil {
		p.did("bulk copies", acks...)
	}
	return err
}

// elsewhen writes events of an hour ago.
func (p *producer) elsewhen(ctx context.Context, conn *pgx.Conn) error {
	m := p.next()
	off := []time.Duration{59 * time.Minute, -time.Hour, -26 * time.Hour}[p.rng.IntN(3)]
	a := acknowledged{mark: m}
	err := conn.QueryRow(ctx, `INSERT INTO events (kind, session, spec, at, data) VALUES ('session_heartbeat', $1, '', now() + $2::interval, jsonb_build_object('s', $3::text, 'n', $4::bigint)) RETURNING id`,
		p.name, off, m.Stream, m.N).Scan(&a.id)
	if err == nil {
		p.did("events of another hour", a)
	}
	return err
}

// posts writes through gateways, and repeats with the same keys what was not
// answered.
func (p *producer) posts(ctx context.Context, pause time.Duration, addresses ...string) {
	client := &http.Client{Timeout: callPatience}
	type event struct {
		Kind    string `json:"kind"`
		Session string `json:"session"`
		Spec    string `json:"spec"`
		Data    mark   `json:"data"`
		Key     string `json:"key"`
	}
	for ctx.Err() == nil {
		events := make([]event, 1+p.rng.IntN(5)/3*p.rng.IntN(10))
		if len(events) == 0 {
			events = make([]event, 1)
		}
		for i := range events {
			m := p.next()
			events[i] = event{kinds[p.rng.IntN(len(kinds))], p.name, "posted", m, fmt.Sprintf("%s/%d", m.Stream, m.N)}
		}
		body, err := json.Marshal(events)
		if err != nil {
			panic(err) // texts and numbers
		}
		for { // repeat until it is answered, even after the end of the run, to know what is stored
			ids, status := post(client, addresses[p.rng.IntN(len(addresses))], body)
			if status == http.StatusCreated && len(ids) == len(events) {
				acks := make([]acknowledged, len(events))
				for i, id := range ids {
					acks[i] = acknowledged{events[i].Data, id}
				}
				p.did("posts", acks...)
				break
			}
			p.did(fmt.Sprintf("posts answered with %d", status))
			if ctx.Err() != nil {
				p.another()
				break
			}
			wait(ctx, 100*time.Millisecond)
		}
		p.rest(ctx, pause)
	}
}

func post(client *http.Client, address string, body []byte) (ids []int64, status int) {
	response, err := client.Post("http://"+address+"/api/events", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, 0
	}
	defer response.Body.Close()
	var answer struct {
		IDs []int64 `json:"ids"`
	}
	if json.NewDecoder(response.Body).Decode(&answer) != nil {
		return nil, 0
	}
	return answer.IDs, response.StatusCode
}
