// Command gpx_specwatch is the backend of the Grafana data source. Grafana
// starts it.
package main

import (
	"os"

	sdk "github.com/grafana/grafana-plugin-sdk-go/backend/datasource"
	"github.com/grafana/grafana-plugin-sdk-go/backend/log"

	"github.com/specwatch/specwatch/pkg/datasource"
)

func main() {
	if err := sdk.Manage(datasource.PluginID, datasource.New, sdk.ManageOpts{}); err != nil {
		log.DefaultLogger.Error("the data source ended", "error", err)
		os.Exit(1)
	}
}
