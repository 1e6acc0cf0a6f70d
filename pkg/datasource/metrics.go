package datasource

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/specwatch/specwatch/pkg/metrics"
)

// Metrics makes the data sources of this process and collects the metrics of
// those whose feed runs, with the labels org_id and datasource_uid. A scrape
// does not start a feed: Grafana makes a data source at its first use, so the
// unused ones would be missing anyway, and each of the others would hold a
// connection for the scrape alone. Alerts use the gateway, whose feed always
// runs. The zero value can be used.
type Metrics struct {
	mu      sync.Mutex
	sources map[name]*Datasource
}

// name identifies a data source. Two organizations may have the same uid.
type name struct{ org, uid string }

// add replaces an older instance of the data source: after a change of settings
// both exist for a while.
func (m *Metrics) add(d *Datasource, org int64, uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.metrics, d.name = m, name{strconv.FormatInt(org, 10), uid}
	d.collector = prometheus.WrapCollectorWith(prometheus.Labels{"org_id": d.name.org, "datasource_uid": uid}, metrics.New(d.source.Feed, d.source.Overview))
	if m.sources == nil {
		m.sources = map[name]*Datasource{}
	}
	m.sources[d.name] = d
}

// remove does nothing if a newer instance has replaced d.
func (m *Metrics) remove(d *Datasource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sources[d.name] == d {
		delete(m.sources, d.name)
	}
}

// Describe sends nothing, because data sources are added and removed.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.sources {
		if d.started.Load() {
			d.collector.Collect(ch)
		}
	}
}
