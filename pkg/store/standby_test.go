package store_test

import (
	"testing"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/postgrestest"
	"github.com/specwatch/specwatch/pkg/programtest"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
	"github.com/specwatch/specwatch/pkg/storetest"
)

// A standby's snapshot does not list what is in progress on the primary, so
// a late commit there is the case that loses rows if it is believed.
func TestLateCommitOnStandby(t *testing.T) {
	t.Parallel()
	primary := postgrestest.Cluster(t, nil)
	standby := postgrestest.Standby(t, primary)
	config := store.Config{URL: primary.URL()}
	if _, err := schema.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	writer := storetest.Open(t, config)
	reader := storetest.Open(t, store.Config{URL: standby.URL()})
	programtest.Until(t, "the standby follows", func() bool { return reader.Ready(t.Context()) == nil })
	late, early := postgrestest.Connect(t, primary.URL()), postgrestest.Connect(t, primary.URL())
	storetest.Exec(t, late, "BEGIN")
	storetest.Exec(t, late, insert, "late")
	storetest.Exec(t, early, insert, "early")
	var got []event.Event
	c := storetest.Here(t, reader)
	seen := func() bool {
		var rows int
		if err := postgrestest.Connect(t, standby.URL()).QueryRow(t.Context(), "SELECT count(*) FROM events").Scan(&rows); err != nil {
			t.Fatal(err)
		}
		return rows == 1
	}
	programtest.Until(t, "the early row reaches the standby", seen)
	read := func() {
		var more []event.Event
		more, c = storetest.Drain(t, reader, c, 10)
		got = append(got, more...)
	}
	read()
	storetest.Exec(t, late, "COMMIT")
	storetest.Exec(t, early, insert, "next")
	programtest.Until(t, "all rows are on the standby", func() bool { read(); return len(got) >= 3 })
	count := map[string]int{}
	for _, e := range got {
		count[e.Spec]++
	}
	if len(got) != 3 || count["late"] != 1 || count["early"] != 1 || count["next"] != 1 {
		t.Fatalf("%q", storetest.Specs(got))
	}
	// A cursor of the standby goes on at the primary, and back.
	storetest.Exec(t, early, insert, "last")
	if more, there := storetest.Drain(t, writer, c, 10); storetest.Specs(more) != "last" {
		t.Fatalf("on the primary: %q", storetest.Specs(more))
	} else {
		programtest.Until(t, "the standby catches up", func() bool { _, err := reader.Since(t.Context(), there, 10); return err == nil })
		if more, _ = storetest.Drain(t, reader, there, 10); len(more) != 0 {
			t.Fatalf("back on the standby: %q", storetest.Specs(more))
		}
	}
	if _, err := reader.Append(t.Context(), []event.Event{{Kind: event.SpecStarted, Session: "s"}}); err == nil {
		t.Fatal("a standby took a write")
	}
}
