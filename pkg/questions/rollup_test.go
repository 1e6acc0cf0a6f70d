package questions_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// Whatever happens to the table, and whenever the rollups were last brought
// on, each question has the answer of the events alone.
func TestRollupsAnswerAsTheTable(t *testing.T) {
	t.Parallel()
	for history := range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(history), func(t *testing.T) {
			t.Parallel()
			t.Logf("seed %d", seed)
			newHistory(t, seed).run(60)
		})
	}
}

type history struct {
	t     *testing.T
	r     *rand.Rand
	s     *store.Store
	ask   questions.Questions
	db    *pgx.Conn
	begin time.Time
	late  []*pgx.Conn // transactions that are open
	open  func() *pgx.Conn
}

func newHistory(t *testing.T, seed uint64) *history {
	s, db, config := storetest.New(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	return &history{t: t, r: rand.New(rand.NewPCG(seed, 1)), s: s, ask: questions.To(s), db: db, begin: now.Add(-72 * time.Hour), open: func() *pgx.Conn { return postgrestest.Connect(t, config.URL) }}
}

func (h *history) run(steps int) {
	for range steps {
		h.step()
		if h.r.IntN(4) == 0 {
			h.compare()
		}
	}
	for _, conn := range h.late {
		h.exec(conn, "COMMIT")
	}
	h.compare()
	for h.roll(7) > 0 {
	}
	h.compare()
}

func (h *history) exec(db *pgx.Conn, sql string, args ...any) {
	h.t.Helper()
	if _, err := db.Exec(h.t.Context(), sql, args...); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
}

func (h *history) roll(most int) (added int64) {
	if err := h.db.QueryRow(h.t.Context(), `SELECT specwatch_roll_up($1)`, most).Scan(&added); err != nil {
		h.t.Fatal(err)
	}
	return added
}

// at is a time of the last days, often on the edge of a minute, hour or day.
func (h *history) at() time.Time {
	at := h.begin.Add(time.Duration(h.r.Int64N(int64(72 * time.Hour))))
	switch h.r.IntN(5) {
	case 0:
		at = at.Truncate(time.Minute)
	case 1:
		at = at.Truncate(time.Hour).Add(-time.Microsecond)
	case 2:
		at = at.Truncate(24 * time.Hour)
	}
	return at.Truncate(time.Microsecond)
}

func (h *history) insert(db *pgx.Conn, n int) {
	kinds := []string{"spec_started", "spec_completed", "spec_failed", "timeout_triggered", "intervention_request", "intervention_answered", "session_heartbeat", "session_heartbeat", "claude.cost", "a.b"}
	for range n {
		h.exec(db, `INSERT INTO events (kind, at, session, spec, data) VALUES ($1, $2, $3, $4, $5)`, kinds[h.r.IntN(len(kinds))], h.at(),
			fmt.Sprint("s", h.r.IntN(4)), []string{"", "a", "b", "Ä"}[h.r.IntN(4)], []string{`{}`, `{"reason": "usage limit"}`}[h.r.IntN(2)])
	}
}

func (h *history) step() {
	switch h.r.IntN(14) {
	case 0, 1, 2:
		h.insert(h.db, 1+h.r.IntN(5))
	case 3:
		h.exec(h.db, "BEGIN")
		h.insert(h.db, 1+h.r.IntN(5))
		h.exec(h.db, []string{"COMMIT", "ROLLBACK"}[h.r.IntN(2)])
	case 4:
		h.exec(h.db, "BEGIN; SAVEPOINT a")
		h.insert(h.db, 2)
		h.exec(h.db, "ROLLBACK TO SAVEPOINT a; SAVEPOINT b")
		h.insert(h.db, 2)
		h.exec(h.db, "COMMIT")
	case 5:
		if len(h.late) < 4 {
			conn := h.open()
			h.exec(conn, "BEGIN")
			h.insert(conn, 1+h.r.IntN(3))
			h.late = append(h.late, conn)
		}
	case 6:
		if len(h.late) > 0 {
			i := h.r.IntN(len(h.late))
			h.exec(h.late[i], []string{"COMMIT", "COMMIT", "ROLLBACK"}[h.r.IntN(3)])
			h.late = append(h.late[:i], h.late[i+1:]...)
		}
	case 7, 8, 9:
		h.roll(1 + h.r.IntN(20))
	case 10:
		if _, err := maintenance.Prune(h.t.Context(), h.s, h.begin.Add(time.Duration(h.r.Int64N(int64(20*time.Hour)))), nil); err != nil {
			h.t.Fatal(err)
		}
	case 11:
		h.exec(h.db, `DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY md5(id::text || $1) LIMIT 3)`, fmt.Sprint(h.r.Uint64()))
	case 12:
		switch h.r.IntN(6) {
		case 0:
			h.exec(h.db, `UPDATE events SET session = 's9' WHERE id IN (SELECT id FROM events ORDER BY at DESC LIMIT 2)`)
		case 1:
			if len(h.late) == 0 {
				h.exec(h.db, `TRUNCATE events`)
			}
		case 2: // as a dump is restored
			h.exec(h.db, `INSERT INTO events (kind, at, session, spec, xid) SELECT kind, at, session, spec, xid FROM events ORDER BY at LIMIT 3`)
		}
	case 13:
		_, _, err := maintenance.RollUp(h.t.Context(), h.s)
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// compare asks with the rollups and without.
func (h *history) compare() {
	h.t.Helper()
	ctx := h.t.Context()
	from, to := h.at(), h.at()
	if to.Before(from) {
		from, to = to, from
	}
	filters := map[string]questions.Filter{
		"part": {From: from, To: to, Limit: 1000},
		"all":  {From: h.begin.Add(-240 * time.Hour), To: time.Now().Add(time.Hour), Limit: 1000},
		"few":  {From: from, To: time.Now().Add(time.Hour), Limit: 2},
		"kind": {From: from, To: to, Limit: 1000, Kinds: []event.Kind{event.SpecStarted, event.Other}},
		"spec": {From: from, To: to, Limit: 1000, Sessions: []string{"s1", "s2"}, Specs: []string{"a", ""}},
	}
	with := h.answers(ctx, filters)
	var seen string
	if err := h.db.QueryRow(ctx, `SELECT coalesce(seen::text, '') FROM specwatch_rollup`).Scan(&seen); err != nil {
		h.t.Fatal(err)
	}
	h.exec(h.db, `UPDATE specwatch_rollup SET seen = NULL`)
	without := h.answers(ctx, filters)
	h.exec(h.db, `UPDATE specwatch_rollup SET seen = nullif($1::text, '')::pg_snapshot`, seen)
	for name, answer := range without {
		if !reflect.DeepEqual(with[name], answer) {
			h.t.Fatalf("%s, rolled up to %q:\n%+v, not\n%+v", name, seen, with[name], answer)
		}
	}
	var total, counted int64
	if err := h.db.QueryRow(ctx, `SELECT count(*) FROM events WHERE at BETWEEN $1 AND $2`, from, to).Scan(&total); err != nil {
		h.t.Fatal(err)
	}
	for _, c := range with["part, counts by 1h0m0s"].([]questions.Count) {
		counted += c.N
	}
	if counted != total {
		h.t.Fatalf("%d events, not %d", counted, total)
	}
}

func (h *history) answers(ctx context.Context, filters map[string]questions.Filter) map[string]any {
	h.t.Helper()
	found := map[string]any{}
	keep := func(name string, answer any, err error) {
		if err != nil {
			h.t.Fatalf("%s: %v", name, err)
		}
		found[name] = answer
	}
	for name, f := range filters {
		for _, step := range []time.Duration{0, 10 * time.Second, time.Minute, 7 * time.Minute, time.Hour, 36 * time.Hour, 48 * time.Hour} {
			counts, err := h.ask.Counts(ctx, f, step)
			keep(fmt.Sprintf("%s, counts by %s", name, step), counts, err)
		}
		outcomes, err := h.ask.Outcomes(ctx, f)
		keep(name+", outcomes", outcomes, err)
		sessions, n, err := h.ask.Sessions(ctx, f, "")
		keep(name+", sessions", []any{sessions, n}, err)
		specs, n, err := h.ask.Specs(ctx, f, "ä")
		keep(name+", specs", []any{specs, n}, err)
		changes, n, err := h.ask.Timeline(ctx, f)
		keep(name+", timeline", []any{changes, n}, err)
	}
	summary, _, err := h.ask.Load(ctx)
	if err == nil {
		keep("overview", summary.State(h.begin).Totals, nil)
	}
	keep("load", nil, err)
	return found
}
