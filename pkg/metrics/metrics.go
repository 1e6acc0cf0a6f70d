// Package metrics has the Prometheus metrics of a feed and its overview, which
// docs/metrics.md lists.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/overview"
	"github.com/specwatch/specwatch/pkg/release"
	"github.com/specwatch/specwatch/pkg/state"
)

type collector struct {
	feed     *feed.Feed
	overview *overview.Overview
}

// New returns the collector of one feed and its overview. A scrape reads
// what they have in memory: it does not query the database and does not wait. Counters of events
// count the rows of the database, those that were pruned too, so neither a
// restart nor prune resets them. The number of series is bounded by the
// number of kinds and by the 100 sessions, and 100 requests for a person,
// that a State lists.
func New(f *feed.Feed, o *overview.Overview) prometheus.Collector { return collector{f, o} }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("specwatch_"+name, help, labels, nil)
}

// Times are in seconds since 1970, by the clock that wrote them: the
// database's, unless a writer gave its own.
var (
	events        = desc("events_total", "Events ever stored, by kind.", "kind")
	outcomes      = desc("spec_outcomes_total", "Starts and ends of specs, by outcome: started, completed, failed, timeout.", "outcome")
	interventions = desc("interventions_open", "Intervention requests that wait for an answer.")

	lastEvent     = desc("session_last_event_timestamp_seconds", "When the session last wrote an event.", "session")
	lastHeartbeat = desc("session_last_heartbeat_timestamp_seconds", "When the session last sent a heartbeat; absent if it never has.", "session")
	lastTimeout   = desc("session_last_timeout_timestamp_seconds", "When a spec of the session last timed out; 0 if none has.", "session")
	waitingSince  = desc("session_oldest_intervention_timestamp_seconds", "Time of the oldest intervention request of the session that waits for an answer; 0 if none waits.", "session")
	specsOpen     = desc("session_specs_open", "Specs of the session that have started and not ended, and are heard of.", "session")
	specsSilent   = desc("session_specs_silent", "Specs of the session that have started and not ended, and are silent: nothing was heard of the session for a minute, or the spec had heartbeats of its own and none came for a minute.", "session")
	lastWork      = desc("session_last_work_timestamp_seconds", "Last sign of work of the spec that has been idle longest, of the session's specs that run and wait neither for a person nor for the end of a usage limit; for a spec that such a limit stopped, not earlier than the limit was lifted; 0 if it is not known.", "session")
	cost          = desc("session_cost_usd", "Cost of the session in US dollars, from its events of the last week; 0 if there is none.", "session")
	tokens        = desc("session_tokens", "Tokens that the session used, from its events of the last week, by direction: input (with those from a cache), output.", "session", "direction")
	streak        = desc("session_failure_streak", "Specs of the session that failed or timed out in a row since one completed, at most 100.", "session")

	build = desc("build_info", "1, with the version and the revision of this executable.", "version", "revision")

	pushed      = desc("feed_push", "1 while PostgreSQL notifies the feed of events, 0 while the feed polls: on a standby and behind a connection pooler.")
	delay       = desc("feed_delay_seconds", "Longest time until the feed notices an event.")
	connected   = desc("feed_connected", "1 while the feed reads the database, else 0.")
	seen        = desc("feed_seen_timestamp_seconds", "Time up to which the feed has seen all events; it does not change while the database cannot be read.")
	lag         = desc("feed_lag_seconds", "Time since the feed had last seen all events; 0 if it has seen all.")
	subscribers = desc("feed_subscribers", "Subscribers of the feed.")
	reads       = desc("feed_reads_total", "Reads of the database by the feed.")
	wakeups     = desc("feed_wakeups_total", "Notifications that woke the feed.")
	reconnects  = desc("feed_reconnects_total", "Connections of the feed that were lost or could not be opened.")
)

var outcomeOf = map[event.Kind]string{
	event.SpecStarted: "started", event.SpecCompleted: "completed", event.SpecFailed: "failed", event.TimeoutTriggered: "timeout",
}

func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		events, outcomes, interventions,
		lastEvent, lastHeartbeat, lastTimeout, waitingSince, specsOpen, specsSilent, lastWork, cost, tokens, streak,
		build, connected, pushed, delay, seen, lag, subscribers, reads, wakeups, reconnects,
	} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	to := scrape(ch)
	to.gauge(build, 1, release.Version, release.Revision())
	stats := c.feed.Stats()
	to.delivery(stats)
	snapshot := c.overview.Latest()
	if snapshot == nil {
		return // nothing is known yet; zeros would be made up
	}
	to.gauge(seen, seconds(c.feed.Now().Add(-stats.Lag)))
	to.totals(snapshot.State)
	for _, s := range snapshot.State.Sessions {
		to.session(s)
	}
	to.waiting(snapshot.State)
}

// scrape receives the metrics of one scrape.
type scrape chan<- prometheus.Metric

func (to scrape) send(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	// The error is a session's name that is not UTF-8, which a database
	// with another encoding can hold. A label cannot have it.
	if m, err := prometheus.NewConstMetric(d, kind, value, labels...); err == nil {
		to <- m
	}
}

func (to scrape) count(d *prometheus.Desc, n int64, labels ...string) {
	to.send(d, prometheus.CounterValue, float64(n), labels)
}

func (to scrape) gauge(d *prometheus.Desc, value float64, labels ...string) {
	to.send(d, prometheus.GaugeValue, value, labels)
}

func (to scrape) delivery(stats feed.Stats) {
	to.gauge(connected, truth(stats.Connected))
	to.gauge(pushed, truth(stats.Push))
	to.gauge(delay, stats.Delay.Seconds())
	to.gauge(lag, stats.Lag.Seconds())
	to.gauge(subscribers, float64(stats.Subscribers))
	to.count(reads, stats.Reads)
	to.count(wakeups, stats.Wakeups)
	to.count(reconnects, stats.Reconnects)
}

func (to scrape) totals(st state.State) {
	for kind, n := range st.Totals {
		to.count(events, n, string(kind))
		if outcome := outcomeOf[kind]; outcome != "" {
			to.count(outcomes, n, outcome)
		}
	}
	to.gauge(interventions, float64(st.WaitingTotal))
}

func (to scrape) session(s state.Session) {
	to.gauge(lastEvent, seconds(s.LastSeen), s.Session)
	if s.LastHeartbeat != nil {
		to.gauge(lastHeartbeat, seconds(*s.LastHeartbeat), s.Session)
	}
	to.gauge(lastTimeout, seconds(s.LastTimeout), s.Session)
	to.gauge(specsOpen, float64(s.Specs.Open), s.Session)
	to.gauge(specsSilent, float64(s.Specs.Silent), s.Session)
	to.gauge(streak, float64(s.FailureStreak), s.Session)
	if s.LastWork != nil {
		to.gauge(lastWork, seconds(*s.LastWork), s.Session)
	} else {
		to.gauge(lastWork, 0, s.Session)
	}
	var used state.Usage
	if s.Usage != nil {
		used = *s.Usage
	}
	to.gauge(cost, used.Cost.USD(), s.Session)
	to.gauge(tokens, float64(used.InputTokens), s.Session, "input")
	to.gauge(tokens, float64(used.OutputTokens), s.Session, "output")
}

// waiting sends the time of the oldest request of each session. A session with a
// listed request need not be listed itself.
func (to scrape) waiting(st state.State) {
	oldest := map[string]float64{}
	for _, w := range st.Waiting { // oldest first
		if _, older := oldest[w.Session]; !older {
			oldest[w.Session] = seconds(w.At)
		}
	}
	for _, s := range st.Sessions {
		if _, waits := oldest[s.Session]; !waits {
			oldest[s.Session] = 0
		}
	}
	for session, since := range oldest {
		to.gauge(waitingSince, since, session)
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// seconds since 1970, as Prometheus counts them; 0 for the zero time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}
