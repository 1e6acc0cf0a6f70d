package datasource

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"github.com/specwatch/specwatch/pkg/store"
)

const healthTimeout = 15 * time.Second

// CheckHealth returns the result that "Save & test" shows.
func (d *Datasource) CheckHealth(ctx context.Context, _ *backend.CheckHealthRequest) (*backend.CheckHealthResult, error) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	err := d.store.Probe(ctx)
	if err == nil {
		err = d.store.Ready(ctx)
	}
	if err == nil {
		message := "Connected. Specwatch can read its events."
		if d.store.Pooled() {
			message += " " + store.PoolerNote
		}
		return &backend.CheckHealthResult{Status: backend.HealthStatusOk, Message: message}, nil
	}
	result := &backend.CheckHealthResult{Status: backend.HealthStatusError, Message: err.Error()}
	var known *store.Problem
	if errors.As(err, &known) {
		if details, err := json.Marshal(map[string]string{"code": known.Code}); err == nil {
			result.JSONDetails = details
		}
	} else if errors.Is(err, context.DeadlineExceeded) {
		result.Message = "PostgreSQL does not answer; check host and port, and that no firewall is in between"
	}
	return result, nil
}
