package postgrestest

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// Cluster starts a PostgreSQL of the test's own, which it may stop, kill and
// restart. The settings are PostgreSQL's; fsync is off unless they say otherwise.
func Cluster(t testing.TB, settings map[string]string) *embedded.Server {
	t.Helper()
	all := map[string]string{"fsync": "off"}
	maps.Copy(all, settings)
	dir := folder(t)
	server, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Settings: all})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, server) })
	return server
}

// Standby starts a hot standby of a cluster. `SELECT pg_promote()` on it is the
// fail-over; until then it only reads.
func Standby(t testing.TB, primary *embedded.Server) *embedded.Server {
	t.Helper()
	server, err := primary.Standby(t.Context(), embedded.Config{Dir: folder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, server) })
	return server
}

// folder makes a place for a server. t.TempDir would be closed to the user as
// whom PostgreSQL runs for root.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "specwatch-cluster-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "postgres")
}

func end(t testing.TB, server *embedded.Server) {
	// What it holds goes away, so there is nothing to write down in order.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		t.Error(err)
	}
	// It may live elsewhere than it was asked to.
	if err := os.RemoveAll(server.Dir()); err != nil {
		t.Error(err)
	}
}
