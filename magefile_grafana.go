//go:build mage

package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// grafana says how to start the Grafana of GRAFANA_HOME with the built plugin
// and the repository's provisioning; data is where it keeps its own.
func grafana(database, schema, data, port string) (env []string, program string, args []string, err error) {
	home, err := filepath.Abs(os.Getenv("GRAFANA_HOME"))
	if err != nil {
		return nil, "", nil, err
	}
	if data, err = filepath.Abs(data); err != nil {
		return nil, "", nil, err
	}
	plugins := filepath.Join(data, "plugins")
	if err := os.MkdirAll(plugins, 0o755); err != nil {
		return nil, "", nil, err
	}
	dist, err := filepath.Abs("dist")
	if err != nil {
		return nil, "", nil, err
	}
	provisioning, err := filepath.Abs("provisioning")
	if err != nil {
		return nil, "", nil, err
	}
	link := filepath.Join(plugins, "specwatch-events-app")
	os.Remove(link)
	if err := os.Symlink(dist, link); err != nil {
		return nil, "", nil, err
	}
	u, err := url.Parse(database)
	if err != nil {
		return nil, "", nil, fmt.Errorf("%s is not a URL", databaseURL)
	}
	password, _ := u.User.Password()
	mode := u.Query().Get("sslmode")
	if mode == "" || mode == "prefer" || mode == "allow" {
		mode = "disable"
	}
	env = []string{
		"GF_PATHS_DATA=" + data, "GF_PATHS_LOGS=" + filepath.Join(data, "log"), "GF_PATHS_PLUGINS=" + plugins, "GF_PATHS_PROVISIONING=" + provisioning,
		"GF_SERVER_HTTP_ADDR=127.0.0.1", "GF_SERVER_HTTP_PORT=" + port,
		"GF_PLUGINS_ALLOW_LOADING_UNSIGNED_PLUGINS=specwatch-events-app,specwatch-events-datasource,specwatch-events-panel",
		"GF_ANALYTICS_REPORTING_ENABLED=false", "GF_ANALYTICS_CHECK_FOR_UPDATES=false", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false",
		"GF_NEWS_NEWS_FEED_ENABLED=false", "GF_LOG_LEVEL=warn",
		"SPECWATCH_GRAFANA_HOST=" + u.Host, "SPECWATCH_GRAFANA_DATABASE=" + strings.TrimPrefix(u.Path, "/"), "SPECWATCH_GRAFANA_SCHEMA=" + schema,
		"SPECWATCH_GRAFANA_USER=" + u.User.Username(), "SPECWATCH_GRAFANA_PASSWORD=" + password, "SPECWATCH_GRAFANA_SSLMODE=" + mode,
	}
	program = binary(filepath.Join(home, "bin", "grafana"))
	return env, program, []string{"server", "--homepath", home}, nil
}
