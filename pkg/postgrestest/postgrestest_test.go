package postgrestest_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/postgrestest"
)

func ask(t *testing.T, address, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var answer string
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func TestASchemaIsEmptyAndGoneAfterwards(t *testing.T) {
	t.Parallel()
	var schema string
	t.Run("used", func(t *testing.T) {
		var address string
		address, schema = postgrestest.Schema(t)
		_, other := postgrestest.Schema(t)
		if schema == other {
			t.Errorf("two schemas are called %s", schema)
		}
		if got := ask(t, address, "SELECT current_schema()"); got != schema {
			t.Errorf("the URL leads to %s, not to %s", got, schema)
		}
		if got := ask(t, address, "SELECT count(*)::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace"); got != "0" {
			t.Errorf("the new schema holds %s relations", got)
		}
	})
	left := "SELECT count(*)::text FROM pg_namespace WHERE nspname = '" + schema + "'"
	if got := ask(t, os.Getenv(postgrestest.Variable), left); got != "0" {
		t.Error("the schema outlived its test")
	}
}

func TestADatabaseIsItsOwnAndGoneAfterwards(t *testing.T) {
	t.Parallel()
	var database string
	t.Run("used", func(t *testing.T) {
		database = ask(t, postgrestest.Database(t), "SELECT current_database()")
		if database == ask(t, os.Getenv(postgrestest.Variable), "SELECT current_database()") {
			t.Error("the database is the shared one")
		}
	})
	left := "SELECT count(*)::text FROM pg_database WHERE datname = '" + database + "'"
	if got := ask(t, os.Getenv(postgrestest.Variable), left); got != "0" {
		t.Error("the database outlived its test")
	}
}

func TestClusterAndStandbyLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	var places []string
	t.Run("used", func(t *testing.T) {
		primary := postgrestest.Cluster(t, map[string]string{"max_prepared_transactions": "3"})
		second := postgrestest.Standby(t, primary)
		places = append(places, primary.Dir(), second.Dir())
		if got := ask(t, primary.URL(), "SHOW max_prepared_transactions"); got != "3" {
			t.Errorf("max_prepared_transactions = %s", got)
		}
		if got := ask(t, second.URL(), "SELECT pg_is_in_recovery()::text"); got != "true" {
			t.Errorf("the standby says that it is none")
		}
	})
	for _, place := range places {
		if _, err := os.Stat(place); err == nil {
			t.Errorf("%s is still there", place)
		}
	}
}

// Runs in a process of its own: without the variable it must say what to do.
func TestWithoutAServer(t *testing.T) {
	if os.Getenv("SPECWATCH_TEST_WITHOUT_SERVER") != "" {
		postgrestest.Schema(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestWithoutAServer$")
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, postgrestest.Variable+"=") {
			child.Env = append(child.Env, variable)
		}
	}
	child.Env = append(child.Env, "SPECWATCH_TEST_WITHOUT_SERVER=1")
	said, err := child.CombinedOutput()
	if err == nil || !strings.Contains(string(said), "go tool mage test") {
		t.Errorf("without a server the test says (%v):\n%s", err, said)
	}
}
