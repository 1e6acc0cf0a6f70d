package datasource

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/specwatch/specwatch/pkg/metrics"
)

// Metrics collects the metrics of the data sources of this process whose feed
// runs, with the labels org_id and datasource_uid. A scrape does not start a feed:
// Grafana makes a data source at its first use, so the unused ones would be
// missing anyway, and each of the others would hold a connection for the scrape
// alone. Alerts use the gateway, whose feed always runs. The zero value can be
// used.
type Metrics struct {
	mu      sync.Mutex
	sources map[name]measured
}

// name identifies a data source. Two organizations may have the same uid.
type name struct{ org, uid string }

// measured is a data source and what collects its metrics.
type measured struct {
	source    *Datasource
	collector prometheus.Collector
}

// Add collects the metrics of the data source until it is disposed of. It replaces
// an older instance: after a change of settings both exist for a while.
func (m *Metrics) Add(d *Datasource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	labels := prometheus.Labels{"org_id": d.name.org, "datasource_uid": d.name.uid}
	if m.sources == nil {
		m.sources = map[name]measured{}
	}
	m.sources[d.name] = measured{d, prometheus.WrapCollectorWith(labels, metrics.New(d.source.Feed, d.source.Overview))}
	context.AfterFunc(d.running, func() { m.remove(d) })
}

// remove does nothing if a newer instance has replaced d.
func (m *Metrics) remove(d *Datasource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sources[d.name].source == d {
		delete(m.sources, d.name)
	}
}

// Describe sends nothing, because data sources are added and removed.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sources {
		if s.source.started.Load() {
			s.collector.Collect(ch)
		}
	}
}
