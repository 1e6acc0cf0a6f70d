package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
)

// collector answers from the feed's summary: counters are of the database,
// so a restart does not reset them, and a scrape costs it nothing. Series are
// bounded by the number of kinds and by the sessions that a State lists.
type collector struct {
	feed *feed.Feed

	outcomes, events, heartbeat, interventions          *prometheus.Desc
	connected, subscribers, lag, reads, wakeups, reconn *prometheus.Desc
}

var outcomeOf = map[event.Kind]string{
	event.SpecStarted: "started", event.SpecCompleted: "completed", event.SpecFailed: "failed", event.TimeoutTriggered: "timeout",
}

func newRegistry(f *feed.Feed) *prometheus.Registry {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("specwatch_"+name, help, labels, nil)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{
		feed:          f,
		outcomes:      desc("spec_outcomes_total", "Starts and ends of specs.", "outcome"),
		events:        desc("events_total", "Events by kind.", "kind"),
		heartbeat:     desc("session_last_heartbeat_timestamp_seconds", "When a session last gave a heartbeat, in seconds since 1970; the 100 sessions heard last.", "session"),
		interventions: desc("interventions_open", "Requests for a person that nothing has answered yet."),
		connected:     desc("feed_connected", "1 while the feed reads the database."),
		subscribers:   desc("feed_subscribers", "Readers that the feed pushes to."),
		lag:           desc("feed_lag_seconds", "Seconds since the feed had last seen everything; 0 while it has."),
		reads:         desc("feed_reads_total", "Reads of the database by the feed."),
		wakeups:       desc("feed_wakeups_total", "Notifications that woke the feed."),
		reconn:        desc("feed_reconnects_total", "Connections of the feed that were lost or failed."),
	})
	return registry
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.outcomes, c.events, c.heartbeat, c.interventions, c.connected, c.subscribers, c.lag, c.reads, c.wakeups, c.reconn} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	stats := c.feed.Stats()
	connected := 0.0
	if stats.Connected {
		connected = 1
	}
	send(c.connected, prometheus.GaugeValue, connected)
	send(c.subscribers, prometheus.GaugeValue, float64(stats.Subscribers))
	send(c.lag, prometheus.GaugeValue, stats.Lag.Seconds())
	send(c.reads, prometheus.CounterValue, float64(stats.Reads))
	send(c.wakeups, prometheus.CounterValue, float64(stats.Wakeups))
	send(c.reconn, prometheus.CounterValue, float64(stats.Reconnects))

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := c.feed.State(ctx, cursor.Cursor{})
	if err != nil {
		return // feed_connected tells; old counts would be made up
	}
	for kind, n := range st.Totals {
		send(c.events, prometheus.CounterValue, float64(n), string(kind))
		if outcome := outcomeOf[kind]; outcome != "" {
			send(c.outcomes, prometheus.CounterValue, float64(n), outcome)
		}
	}
	send(c.interventions, prometheus.GaugeValue, float64(st.WaitingTotal))
	for _, session := range st.Sessions {
		if session.LastHeartbeat != nil {
			send(c.heartbeat, prometheus.GaugeValue, float64(session.LastHeartbeat.UnixMicro())/1e6, session.Session)
		}
	}
}

func (g *Gateway) metrics() http.Handler {
	return promhttp.HandlerFor(g.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}
