package questions_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// told prints conditions by name, with their age in minutes and their events.
func told(found []questions.Condition, err error) string {
	if err != nil {
		return err.Error()
	}
	var lines []string
	for _, c := range found {
		lines = append(lines, fmt.Sprintf("%s/%s %gm %d", c.Session, c.Spec, c.Age.Minutes(), c.Events))
	}
	return strings.Join(lines, ", ")
}

func TestConditions(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	ask := questions.To(s)
	start := time.Date(2026, 3, 1, 1, 0, 0, 0, time.UTC)
	add := func(minute int, kind event.Kind, session, spec string) {
		storetest.Exec(t, conn, `INSERT INTO events (kind, at, session, spec) VALUES ($1, $2, $3, $4)`, string(kind), start.Add(time.Duration(minute)*time.Minute), session, spec)
	}
	f := questions.Filter{From: start, To: start.Add(30 * time.Minute), Limit: 10}
	expect := func(when, timedOut, waiting, silent, failing string) {
		t.Helper()
		got := []string{told(ask.TimedOut(t.Context(), f)), told(ask.Waiting(t.Context(), f)), told(ask.HeartbeatAge(t.Context(), f)), told(ask.Failing(t.Context(), f))}
		if want := []string{timedOut, waiting, silent, failing}; !slices.Equal(got, want) {
			t.Errorf("%s:\n%q, want\n%q", when, got, want)
		}
	}
	add(-5, event.SpecStarted, "old", "lost")
	add(-4, event.TimeoutTriggered, "old", "late")
	expect("before the range", "", "", "", "")

	add(1, event.SpecStarted, "night", "login")
	add(2, event.SessionHeartbeat, "night", "login")
	add(2, event.SessionHeartbeat, "other", "")
	expect("a spec is open", "", "", "night/login 28m 1", "")

	add(10, event.SpecStarted, "night", "search") // beside login
	expect("a start is a sign of life", "", "", "night/search 20m 1", "")

	storetest.Exec(t, conn, `INSERT INTO events (kind, at, session, spec, data) VALUES ('session_heartbeat', $1, 'night', 'login', '{"silentSeconds": 0}')`, start.Add(2*time.Minute))
	add(2, event.SessionHeartbeat, "night", "")
	expect("its own heartbeats ended with those of the session", "", "", "night/search 20m 1", "")
	add(4, event.SessionHeartbeat, "night", "")
	expect("its own heartbeats ended before", "", "", "night/search 20m 1, night/login 28m 1", "")

	add(11, event.TimeoutTriggered, "night", "login")
	add(12, event.InterventionRequest, "night", "search")
	add(13, event.SpecFailed, "night", "cart")
	expect("all at once", "night/login 19m 1", "night/search 18m 1", "night/search 20m 1", "night/login 19m 2")

	f.Sessions, f.Specs = []string{"night"}, []string{"cart"}
	expect("one spec", "", "", "", "night/cart 17m 1")
	f.Sessions = []string{"other"}
	expect("another session", "", "", "", "")
	f.Sessions, f.Specs = nil, nil

	add(14, event.SpecStarted, "night", "login")
	add(15, event.SpecCompleted, "night", "search")
	expect("put right", "", "", "night/login 16m 1", "")
	add(16, event.SpecCompleted, "night", "login")
	expect("nothing is open", "", "", "", "")

	// A range that ends ahead of the database's clock makes nothing older.
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec) VALUES ('timeout_triggered', 'now', 'x')`)
	now, err := ask.TimedOut(t.Context(), questions.Filter{From: time.Now().Add(-time.Minute), To: time.Now().Add(time.Hour), Limit: 1})
	if err != nil || len(now) != 1 || now[0].Age > time.Minute {
		t.Errorf("%+v, %v", now, err)
	}
}

// What alert rules are told is what the summary shows.
func TestConditionsAreThoseOfTheState(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, `INSERT INTO events (kind, at, session, spec, data)
		SELECT (array['spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'session_heartbeat', 'intervention_answered', 'claude.cost'])[1 + (n * 7919 % 31) % 8],
		       date_trunc('second', now()) - interval '1 second' * (n * 104729 % 50), 's' || n % 7, 'p' || n % 11,
		       CASE n % 3 WHEN 0 THEN '{}' ELSE jsonb_build_object('request', n - 7 * (n % 5)) END FROM generate_series(1, 300) n
		UNION ALL SELECT 'spec_started', now() - interval '1 hour' + interval '1 second' * n, 'idle', 'p' || n, '{}' FROM generate_series(1, 8) n
		UNION ALL SELECT 'session_heartbeat', now() - interval '1 second' * (n * 13), 'idle', 'p' || n, jsonb_build_object('silentSeconds', 100 * n + 0.5, 'cpuSeconds', 0.29) FROM generate_series(1, 7) n
		UNION ALL SELECT 'session_heartbeat', now() - interval '1 minute' * n, 'idle', 'p' || n, jsonb_build_object('silentSeconds', 0) FROM generate_series(1, 3) n
		UNION ALL SELECT 'session_heartbeat', now(), 'idle', '', '{}'
		UNION ALL SELECT 'claude.usage', now() - interval '30 seconds', 'idle', 'p2', '{}'
		UNION ALL SELECT 'intervention_request', now() - interval '30 seconds', 'idle', 'p3', '{}'
		UNION ALL SELECT 'spec_started', now() - interval '1 hour', 'whole', 'p' || n, '{}' FROM generate_series(1, 2) n
		UNION ALL SELECT 'session_heartbeat', now(), 'whole', '', '{"silentSeconds": 700}'
		UNION ALL SELECT 'spec_started', now() - interval '1 hour', 'asks', 'p', '{}'
		UNION ALL SELECT 'session_heartbeat', now(), 'asks', 'p', '{"silentSeconds": 700}'
		UNION ALL SELECT 'intervention_request', now() - interval '30 seconds', 'asks', '', '{}'
		UNION ALL SELECT 'spec_started', now() - interval '1 hour', session, 'p' || n, '{}' FROM unnest(array['limit', 'lifted', 'stopped']) session, generate_series(1, 5) n
		UNION ALL SELECT 'session_heartbeat', now(), session, 'p' || n, '{"silentSeconds": 1740}' FROM unnest(array['limit', 'lifted', 'stopped']) session, generate_series(1, 5) n
		UNION ALL SELECT 'session_heartbeat', now() - interval '30 minutes', 'limit', 'p' || n, '{"limited": true}' FROM generate_series(1, 4) n
		UNION ALL SELECT 'session_heartbeat', now() - interval '5 minutes', 'limit', 'p1', '{"doing": "goes on"}'
		UNION ALL SELECT 'spec_started', now() - interval '29 minutes', 'limit', 'p2', '{}'
		UNION ALL SELECT 'claude.usage', now() - interval '4 minutes', 'limit', 'p3', '{}'
		UNION ALL SELECT 'session_heartbeat', now() - interval '30 minutes', 'lifted', 'p' || n, jsonb_build_object('limited', true, 'resetsInSeconds', 100 + 600 * n) FROM generate_series(1, 4) n
		UNION ALL SELECT 'spec_started', now() - interval '1 hour', 'goes on', 'p' || n, '{}' FROM generate_series(1, 5) n
		UNION ALL SELECT 'session_heartbeat', now() - interval '10 minutes' * n, 'goes on', 'p' || n, '{"silentSeconds": 0}' FROM generate_series(1, 3) n
		UNION ALL SELECT 'spec_started', now() - interval '29 minutes', 'goes on', 'p3', '{}'
		UNION ALL SELECT 'session_heartbeat', now(), 'goes on', spec, '{"silentSeconds": 50}' FROM unnest(array['', 'p5']) spec
		UNION ALL SELECT 'session_heartbeat', now() - interval '30 minutes', 'stopped', '', '{"limited": true, "resetsInSeconds": 3600}'
		UNION ALL SELECT 'session_heartbeat', now() - interval '20 minutes', 'stopped', 'p1', '{"limited": true, "resetsInSeconds": 900}'
		UNION ALL SELECT 'session_heartbeat', now() - interval '10 minutes', 'stopped', 'p2', '{"limited": true, "resetsInSeconds": "soon"}'
		UNION ALL SELECT 'session_heartbeat', now() - interval '1 minute', 'stopped', 'p3', '{"limited": true, "resetsInSeconds": -1}'`)
	st, err := storetest.State(t, s)
	if err != nil {
		t.Fatal(err)
	}
	f := questions.Filter{From: st.At.Add(-2 * time.Hour), To: st.At, Limit: event.MaxPage}
	same := func(name string, read func(questions.Questions, context.Context, questions.Filter) ([]questions.Condition, error), line func(questions.Condition) string, want []string) {
		t.Helper()
		found, err := read(questions.To(s), t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range found {
			got = append(got, line(c))
		}
		slices.Sort(got)
		slices.Sort(want)
		if len(got) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: %q, the state has %q", name, got, want)
		}
	}
	var timedOut, waiting, silent, alone, failing, idle []string
	oldest := map[string]bool{}
	for _, w := range st.Waiting { // oldest first
		if name := w.Session + "/" + w.Spec; !oldest[name] {
			oldest[name] = true
			waiting = append(waiting, fmt.Sprint(w.Session, w.Spec, w.At))
		}
	}
	limited := 0
	youngest := map[string]time.Time{} // of a session's open specs
	for _, o := range st.Running {     // oldest first
		youngest[o.Session] = o.Since
		if o.LastWork != nil {
			idle = append(idle, fmt.Sprint(o.Session, o.Spec, o.LastWork))
		}
		if o.Limited {
			limited++
		}
	}
	for _, session := range st.Sessions {
		timedOut = append(timedOut, slices.Repeat([]string{session.Session}, session.Specs.TimedOut)...)
		if session.FailureStreak > 0 {
			failing = append(failing, fmt.Sprint(session.Session, session.FailureStreak))
		}
		if since, open := youngest[session.Session]; open {
			if session.LastHeartbeat.After(since) {
				since = *session.LastHeartbeat
			}
			silent = append(silent, fmt.Sprint(session.Session, since))
		}
	}
	for _, o := range st.Silent {
		if st.Heard(o.Session) {
			alone = append(alone, o.Session+o.Spec)
		}
	}
	// limit p3 and p4; lifted p3 and p4; stopped p2, p4 and p5
	if limited != 7 {
		t.Errorf("%d specs are at their limit", limited)
	}
	same("timed out", questions.Questions.TimedOut, func(c questions.Condition) string { return c.Session }, timedOut)
	same("waiting", questions.Questions.Waiting, func(c questions.Condition) string { return fmt.Sprint(c.Session, c.Spec, c.Since) }, waiting)
	// Specs that are silent alone, and the sessions of the others.
	silentIf := func(is bool) func(q questions.Questions, ctx context.Context, f questions.Filter) ([]questions.Condition, error) {
		return func(q questions.Questions, ctx context.Context, f questions.Filter) ([]questions.Condition, error) {
			found, err := q.HeartbeatAge(ctx, f)
			return slices.DeleteFunc(found, func(c questions.Condition) bool { return slices.Contains(alone, c.Session+c.Spec) != is }), err
		}
	}
	same("silent alone", silentIf(true), func(c questions.Condition) string { return c.Session + c.Spec }, alone)
	same("silent", silentIf(false), func(c questions.Condition) string { return fmt.Sprint(c.Session, c.Since) }, silent)
	same("idle", questions.Questions.Idle, func(c questions.Condition) string { return fmt.Sprint(c.Session, c.Spec, &c.Since) }, idle)
	same("failing", questions.Questions.Failing, func(c questions.Condition) string { return fmt.Sprint(c.Session, c.Events) }, failing)
}

// The end of a spec by a limit of usage is none of the failures in a row.
func TestLimitIsNoCondition(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, `INSERT INTO events (kind, session, spec, data) VALUES ('spec_failed', 'night', 'a', '{}'), ('spec_failed', 'night', 'b', '{"reason": "usage limit"}'), ('spec_failed', 'limited', 'c', '{"reason": "usage limit"}')`)
	found, err := questions.To(s).Failing(t.Context(), questions.Filter{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour), Limit: 10})
	if err != nil || len(found) != 1 || found[0].Session != "night" || found[0].Events != 1 {
		t.Errorf("%+v: %v", found, err)
	}
}
