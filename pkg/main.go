// Command gpx_specwatch is the backend of the Grafana data source. Grafana
// starts it.
package main

import (
	"context"
	"os"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	sdk "github.com/grafana/grafana-plugin-sdk-go/backend/datasource"
	"github.com/grafana/grafana-plugin-sdk-go/backend/instancemgmt"
	"github.com/grafana/grafana-plugin-sdk-go/backend/log"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/specwatch/specwatch/pkg/datasource"
)

func main() {
	var metrics datasource.Metrics
	prometheus.MustRegister(&metrics) // where the SDK looks when Grafana asks for them
	open := func(ctx context.Context, settings backend.DataSourceInstanceSettings) (instancemgmt.Instance, error) {
		d, err := datasource.New(ctx, settings)
		if err != nil {
			return nil, err
		}
		metrics.Add(d)
		return d, nil
	}
	if err := sdk.Manage(datasource.PluginID, open, sdk.ManageOpts{}); err != nil {
		log.DefaultLogger.Error("the data source ended", "error", err)
		os.Exit(1)
	}
}
