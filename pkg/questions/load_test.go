package questions_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/questions"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// The sessions that somebody names are summed up as the summary does it, and
// however old they are.
func TestStateOfNamedSessions(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, `INSERT INTO events (kind, at, session, spec) VALUES
		('spec_started', now() - interval '1 minute', 'new', 'a'), ('intervention_request', now() - interval '1 minute', 'new', 'a'), ('session_heartbeat', now(), 'new', ''),
		('spec_failed', now() - interval '30 days', 'old', 'a'), ('spec_failed', now() - interval '29 days', 'old', 'b'), ('session_heartbeat', now() - interval '30 days', 'old', 'a'),
		('spec_started', now(), 'other', 'a')`)
	all, err := storetest.State(t, s)
	if err != nil {
		t.Fatal(err)
	}
	st, err := questions.To(s).StateOf(t.Context(), []string{"old", "new", "none"})
	if err != nil || len(st.Sessions) != 2 || st.SessionsTotal != 2 || st.SessionsRunning != 1 || st.FailureStreak != 2 || st.WaitingTotal != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	for _, one := range all.Sessions {
		if named := st.Sessions[0]; one.Session == "new" && (named.Session != "new" || named.Specs != one.Specs || named.Waiting != one.Waiting || named.Status != one.Status ||
			!named.LastSeen.Equal(one.LastSeen) || !named.LastHeartbeat.Equal(*one.LastHeartbeat)) {
			t.Errorf("%+v, the summary has %+v", named, one)
		}
	}
	old := st.Sessions[1]
	if old.Status != state.Done || old.Specs.Failed != 2 || old.FailureStreak != 2 || old.LastHeartbeat == nil || time.Since(old.LastSeen) < 28*24*time.Hour {
		t.Errorf("%+v", old)
	}
}

func TestStateAndPrune(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, `INSERT INTO events (kind, at, session, spec) VALUES
		('spec_started', now() - interval '10 days', 'old', 'x'),
		('spec_started', now() - interval '2 minutes', 'night', 'a'), ('spec_completed', now() - interval '1 minute', 'night', 'a'),
		('spec_started', now(), 'night', 'b'), ('intervention_request', now(), 'night', 'b'), ('session_heartbeat', now(), 'night', 'b')`)
	st, err := storetest.State(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if st.Totals[event.SpecStarted] != 3 || len(st.Sessions) != 1 || st.Sessions[0].Status != state.Running ||
		st.Specs != (state.Specs{Open: 1, Completed: 1}) || len(st.Waiting) != 1 || st.Sessions[0].LastHeartbeat == nil {
		t.Fatalf("%+v", st)
	}
	n, err := maintenance.Prune(t.Context(), s, time.Now().Add(-24*time.Hour), nil)
	if err != nil || n != 1 {
		t.Fatalf("%d: %v", n, err)
	}
	if st, err = storetest.State(t, s); err != nil || st.Totals[event.SpecStarted] != 3 {
		t.Fatalf("a counter fell: %+v, %v", st.Totals, err)
	}
}

// What is loaded at a start is what would have been folded event by event.
func TestLoadedStateIsTheFold(t *testing.T) {
	t.Parallel()
	s, conn, _ := storetest.New(t)
	storetest.Exec(t, conn, `INSERT INTO events (kind, at, session, spec, data)
		SELECT (array['spec_started', 'spec_completed', 'spec_failed', 'timeout_triggered', 'intervention_request', 'session_heartbeat', 'intervention_answered', 'claude.cost'])[1 + (n * 7919 % 31) % 8],
		       date_trunc('second', now()) - interval '1 second' * (n * 104729 % 500), 's' || n % 7, 'p' || n % 11,
		       CASE n % 3 WHEN 0 THEN '{}' ELSE jsonb_build_object('request', n - 7 * (n % 5)) END
		       || CASE n % 4 WHEN 0 THEN '{}' WHEN 1 THEN jsonb_build_object('silentSeconds', n % 77 * 1.5, 'cpuSeconds', n % 5 * 0.1) WHEN 2 THEN '{"doing": "Bash"}'
		          ELSE (array['{"silentSeconds": 1e400}', '{"silentSeconds": -5, "cpuSeconds": "1"}', '{"silentSeconds": 1e-400, "doing": 3}', '{"silentSeconds": "7", "cpuSeconds": 9}', '{"SilentSeconds": 3}'])[1 + n % 5]::jsonb END
		       || (array['{}', '{"reason": "exit code"}', '{"reason": "usage limit", "resetsAt": "2099-01-01T17:00:00Z"}', '{"reason": "usage limit", "resetsAt": "soon"}', '{"Reason": "usage limit"}', '{"reason": ["usage limit"]}'])[1 + n % 6]::jsonb
		       || CASE n % 5 WHEN 0 THEN '{}' ELSE jsonb_build_object('usage', jsonb_build_object('inputTokens', n * 13, 'output_tokens', n * 0.5, 'costUsd', 0.1 / n)) END FROM generate_series(1, 3000) n
		UNION ALL SELECT 'claude.usage', now() - interval '1 minute' * n, 's1', 'odd', (array['{"usage": {"inputTokens": 1e400, "costUsd": 1e-400}}', '{"usage": {"inputTokens": "12", "outputTokens": -3, "costUsd": null}}',
		          '{"usage": [1]}', '{"usage": 7, "Usage": {"costUsd": 1}}', '{"usage": {"costUsd": 0.0000000005, "cost_usd": 0.0000000015, "cachedInputTokens": 2.5}}', '[{"usage": {"costUsd": 1}}]'])[n]::jsonb FROM generate_series(1, 6) n
		UNION ALL SELECT 'claude.usage', now() - interval '1 minute', 's1', name, jsonb_build_object('usage', jsonb_build_object(name, value))
		    FROM unnest(array['inputTokens', 'input_tokens', 'cachedInputTokens', 'cached_input_tokens', 'outputTokens', 'output_tokens', 'costUsd', 'cost_usd']) name, unnest(array[-1e400, -1e-400, -1, 1e-400, 7]) value
		UNION ALL SELECT 'claude.usage', now() - interval '1 minute', 's1', 'above ' || name, jsonb_build_object('usage', jsonb_build_object(name, 1e400)) FROM unnest(array['input_tokens', 'cachedInputTokens', 'output_tokens', 'costUsd']) name
		UNION ALL SELECT 'claude.usage', now() - interval '1 day' * n, 's2', 'days', '{"usage": {"outputTokens": 1}}' FROM generate_series(0, 20) n
		UNION ALL SELECT 'spec_started', now() - interval '1 minute', 's' || n, 'p' || m, '{}' FROM generate_series(0, 6) n, generate_series(0, 9) m
		UNION ALL SELECT 'session_heartbeat', now(), 's' || n, 'p' || m, jsonb_build_object('silentSeconds', m) FROM generate_series(0, 4) n, generate_series(0, 9, 2) m
		UNION ALL SELECT CASE n % 2 WHEN 0 THEN 'spec_failed' ELSE 'timeout_triggered' END, now(), 's0', 'p' || n % 3, '{}' FROM generate_series(1, 150) n
		UNION ALL SELECT 'spec_failed', now() - interval '2 hours' + interval '1 minute' * n, 'never', 'p', '{}' FROM generate_series(1, 5) n`)
	// The first request is answered, and after it as many that a summary does not hold all of the answers.
	storetest.Exec(t, conn, `
		WITH asked AS (INSERT INTO events (kind, session, spec) SELECT 'intervention_request', 'asks', 'p' || n FROM generate_series(1, 2) n RETURNING id, spec)
		INSERT INTO events (kind, session, spec, data) SELECT 'intervention_answered', 'asks', '', jsonb_build_object('request', id) FROM asked WHERE spec = 'p1'`)
	storetest.Exec(t, conn, `
		WITH asked AS (INSERT INTO events (kind, session, spec) SELECT 'intervention_request', 'asks', 'q' || n % 3 FROM generate_series(1, 60) n RETURNING id)
		INSERT INTO events (kind, session, spec, data) SELECT 'intervention_answered', 'asks', '', jsonb_build_object('request', id::text) FROM asked`)
	events, err := questions.To(s).Range(t.Context(), questions.Filter{From: event.Earliest, To: time.Now().Add(time.Hour), Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	folded := state.NewSummary(nil)
	for _, e := range events {
		folded.Add(e)
	}
	got, err := storetest.State(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if want := folded.State(got.At); !reflect.DeepEqual(got, want) {
		t.Fatalf("loaded\n%+v\nfolded\n%+v", got, want)
	}
	for _, session := range got.Sessions {
		if session.Session == "asks" && session.Waiting != 1 {
			t.Errorf("%d requests wait, not p2's alone", session.Waiting)
		}
	}
	var working int
	for _, open := range got.Running {
		if open.LastWork != nil {
			working++
		}
	}
	if got.Specs.Limited == 0 || got.Specs.Failed == 0 {
		t.Errorf("%+v", got.Specs)
	}
	if working == 0 || working == len(got.Running) {
		t.Errorf("%d of %d running specs tell of their work", working, len(got.Running))
	}
	streaks := map[string]int{}
	for _, session := range got.Sessions {
		streaks[session.Session] = session.FailureStreak
		if session.Session == "s2" && (session.Usage == nil || session.Usage.OutputTokens < 8 || session.Usage.Cost == 0) {
			t.Errorf("usage %+v", session.Usage)
		}
	}
	if streaks["s0"] != state.MaxStreak || streaks["never"] != 5 {
		t.Errorf("streaks %v", streaks)
	}
}
