// Command gpx_specwatch is the backend of the Grafana data source. Grafana
// starts it.
package main

import (
	"os"

	sdk "github.com/grafana/grafana-plugin-sdk-go/backend/datasource"
	"github.com/grafana/grafana-plugin-sdk-go/backend/log"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/specwatch/specwatch/pkg/datasource"
)

func main() {
	var metrics datasource.Metrics
	prometheus.MustRegister(&metrics) // where the SDK looks when Grafana asks for them
	if err := sdk.Manage(datasource.PluginID, metrics.New, sdk.ManageOpts{}); err != nil {
		log.DefaultLogger.Error("the data source ended", "error", err)
		os.Exit(1)
	}
}
