// Package metrics tells Prometheus what a feed knows. docs/metrics.md lists
// it all.
package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
)

type collector struct{ feed *feed.Feed }

// New returns the collector of one feed. A scrape takes what the feed holds:
// it asks the database nothing and waits for nothing. Counters of events
// count the rows of the database, those that were pruned too, so neither a
// restart nor prune resets them. The number of series is bounded by the
// number of kinds and by the 100 sessions, and 100 requests for a person,
// that a State lists.
func New(f *feed.Feed) prometheus.Collector { return collector{f} }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("specwatch_"+name, help, labels, nil)
}

// Times are in seconds since 1970, by the clock that wrote them: the
// database's, unless a writer gave its own.
var (
	events        = desc("events_total", "Events ever written, by kind.", "kind")
	outcomes      = desc("spec_outcomes_total", "Starts and ends of specs, by outcome: started, completed, failed, timeout.", "outcome")
	interventions = desc("interventions_open", "Requests for a person that nothing has answered yet.")

	lastEvent     = desc("session_last_event_timestamp_seconds", "When the session last wrote anything.", "session")
	lastHeartbeat = desc("session_last_heartbeat_timestamp_seconds", "When the session last gave a heartbeat; absent while it has given none.", "session")
	lastTimeout   = desc("session_last_timeout_timestamp_seconds", "When a spec of the session last timed out; 0 while none has.", "session")
	waitingSince  = desc("session_oldest_intervention_timestamp_seconds", "When the session first asked for a person, of the requests that nothing has answered yet; 0 while none waits.", "session")
	specsOpen     = desc("session_specs_open", "Specs of the session that have started and not ended.", "session")
	streak        = desc("session_failure_streak", "Times in a row that specs of the session failed or timed out, since one last completed; counts up to 100.", "session")

	connected   = desc("feed_connected", "1 while the feed reads the database, else 0.")
	seen        = desc("feed_seen_timestamp_seconds", "Up to when the feed is known to have seen everything; it stands still while the database cannot be read.")
	lag         = desc("feed_lag_seconds", "How long ago the feed had last seen everything; 0 while it has.")
	subscribers = desc("feed_subscribers", "Readers that the feed pushes to.")
	reads       = desc("feed_reads_total", "Reads of the database by the feed.")
	wakeups     = desc("feed_wakeups_total", "Notifications that woke the feed.")
	reconnects  = desc("feed_reconnects_total", "Connections of the feed that were lost or failed.")
)

var outcomeOf = map[event.Kind]string{
	event.SpecStarted: "started", event.SpecCompleted: "completed", event.SpecFailed: "failed", event.TimeoutTriggered: "timeout",
}

func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		events, outcomes, interventions,
		lastEvent, lastHeartbeat, lastTimeout, waitingSince, specsOpen, streak,
		connected, seen, lag, subscribers, reads, wakeups, reconnects,
	} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		// The error is a session's name that is not UTF-8, which a database
		// with another encoding can hold. No series can tell of it.
		if m, err := prometheus.NewConstMetric(d, kind, value, labels...); err == nil {
			ch <- m
		}
	}
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		send(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		send(d, prometheus.GaugeValue, value, labels...)
	}

	stats := c.feed.Stats()
	up := 0.0
	if stats.Connected {
		up = 1
	}
	gauge(connected, up)
	gauge(lag, stats.Lag.Seconds())
	gauge(subscribers, float64(stats.Subscribers))
	count(reads, stats.Reads)
	count(wakeups, stats.Wakeups)
	count(reconnects, stats.Reconnects)

	now, cancel := context.WithCancel(context.Background())
	cancel()
	st, err := c.feed.State(now, cursor.Cursor{})
	if err != nil {
		return // nothing is known yet; zeros would be made up
	}
	gauge(seen, seconds(st.At.Add(-stats.Lag)))
	for kind, n := range st.Totals {
		count(events, n, string(kind))
		if outcome := outcomeOf[kind]; outcome != "" {
			count(outcomes, n, outcome)
		}
	}
	gauge(interventions, float64(st.WaitingTotal))
	waiting := map[string]float64{}
	for _, w := range st.Waiting { // oldest first
		if _, older := waiting[w.Session]; !older {
			waiting[w.Session] = seconds(w.At)
		}
	}
	for _, s := range st.Sessions {
		gauge(lastEvent, seconds(s.LastSeen), s.Session)
		if s.LastHeartbeat != nil {
			gauge(lastHeartbeat, seconds(*s.LastHeartbeat), s.Session)
		}
		gauge(lastTimeout, seconds(s.LastTimeout), s.Session)
		gauge(specsOpen, float64(s.Specs.Open), s.Session)
		gauge(streak, float64(s.FailureStreak), s.Session)
		if _, waits := waiting[s.Session]; !waits {
			waiting[s.Session] = 0
		}
	}
	for session, since := range waiting {
		gauge(waitingSince, since, session)
	}
}

// seconds since 1970, as Prometheus counts them; 0 for the zero time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}
